"""What the firewalls of other programs make of our packets: nftables, read and understood."""
