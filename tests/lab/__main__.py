"""`make lab`: the lab with the facilitator in it, to play with by hand until Ctrl-C."""

from __future__ import annotations

import signal
import sys

from tests.lab import CLOUD_WEB, CUSTOMER, DATACENTRE_WEB, Lab
from tests.lab.lab import end_on_signals, unfit

HELP = """
The lab runs. In another terminal (as root):

  staff's laptop      ip netns exec {laptop} curl http://{datacentre}/      (or http://{cloud}/)
  facilitator         {facilitator} status --watch -c {config}
  its namespace       ip netns exec {fac} bash
  its log             tail -f {log}
  PagerDuty double    ip netns exec {fac} curl -s {pagerduty}/state
  break the path      ip netns exec {transport} nft add element inet faults sites {{ {customer} }}
  heal the path       ip netns exec {transport} nft delete element inet faults sites {{ {customer} }}

Ctrl-C takes everything away."""


def main() -> None:
    """Build, explain, wait."""
    end_on_signals()
    if reasons := unfit():
        sys.exit("\n".join(reasons))
    try:
        with Lab() as lab, lab.pagerduty() as pagerduty, lab.daemon(lab.configuration(pagerduty)) as daemon:
            print(
                HELP.format(
                    laptop=lab.network["laptop"].name,
                    fac=lab.network["facilitator"].name,
                    transport=lab.network["transport"].name,
                    facilitator=f"ip netns exec {lab.network['facilitator'].name} {sys.executable} -m "
                    f"supervisor",
                    config=daemon.config_file,
                    log=daemon.log,
                    pagerduty=pagerduty.url,
                    datacentre=DATACENTRE_WEB,
                    cloud=CLOUD_WEB,
                    customer=CUSTOMER,
                ),
                flush=True,
            )
            signal.pause()
    except KeyboardInterrupt:
        print("\ntaken away")


if __name__ == "__main__":
    main()
