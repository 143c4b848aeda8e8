"""The daemon that runs the company's site VPNs: decisions (core), effects (clients, kernel, probes,
reports, control), wiring.
"""

# The last release. `make release` compares it with the tag; a build writes its own version here. Whoever
# reports a version asks `supervisor.version`, which knows how far a checkout is from that release.
__version__ = "0.1.0"
