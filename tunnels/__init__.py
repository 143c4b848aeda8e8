"""What a VPN kind is: one file per kind, pure. `tunnels.kinds` lists them; nothing is imported here, because the programs start often."""
