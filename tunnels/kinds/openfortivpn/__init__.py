"""openfortivpn: Fortinet's SSL VPN."""
