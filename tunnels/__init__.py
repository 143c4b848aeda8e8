"""What a VPN kind is: one file per kind, pure. `tunnels.registry` lists them; nothing is imported here,
because the programs start often.
"""
