"""What the sidecar decides, as values: no socket, no clock, no disk."""
