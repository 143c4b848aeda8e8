"""What comes in: control socket, HTTP, signals, sd_notify."""
