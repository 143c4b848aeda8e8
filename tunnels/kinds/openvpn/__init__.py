"""OpenVPN."""
