"""The daemon that runs the company's site VPNs: decisions (core), effects (clients, kernel, probes,
reports, control), wiring.
"""

__version__ = "0.1.0"
