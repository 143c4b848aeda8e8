"""What the kernel should hold: lanes, routes, nftables elements, access lists, failover."""
