"""What the daemon watches beside the tunnels' processes: certificates, gateways, the host, idle tunnels."""
