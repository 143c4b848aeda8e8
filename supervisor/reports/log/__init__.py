"""The daemon's own log, and masking of secrets in it."""
