"""A private network with real VPN servers, in which the product is shown, tested and measured.

    laptop -- hub -- facilitator -- transport -+- customer -- datacentre   10.77.0.0/24 behind OpenVPN servers
                                               +- bastion  -- cloud        10.90.0.0/16 behind sshd

`Lab` (lab.py) builds it from network.py, pki.py and servers.py; daemon.py runs `facilitator` in it;
traffic.py sends and watches packets. Everything lives in network namespaces with random names and one
temporary directory, and is gone when the context ends.
"""

from tests.lab.daemon import LabDaemon
from tests.lab.lab import Lab
from tests.lab.network import BASTION, CLOUD_WEB, CUSTOMER, DATACENTRE_WEB, LAPTOP
from tests.lab.traffic import Capture, OutageMeter, Reply

__all__ = [
    "BASTION",
    "CLOUD_WEB",
    "CUSTOMER",
    "DATACENTRE_WEB",
    "LAPTOP",
    "Capture",
    "LabDaemon",
    "Lab",
    "OutageMeter",
    "Reply",
]
