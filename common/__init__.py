"""What the daemon, the drivers of tunnels and the hub share."""
