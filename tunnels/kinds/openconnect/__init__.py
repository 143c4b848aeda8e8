"""openconnect: SSL VPNs."""
