"""What the daemon and the drivers of tunnels share: netlink, the token bucket. It imports the standard
library alone.
"""
