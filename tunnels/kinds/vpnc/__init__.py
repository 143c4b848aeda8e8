"""vpnc: Cisco's IPsec with XAuth."""
