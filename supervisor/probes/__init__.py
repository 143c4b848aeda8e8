"""Active probes: whether traffic passes through a tunnel, to its remote gateway, and in which packet size."""
