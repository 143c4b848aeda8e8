"""The VPN clients as processes."""
