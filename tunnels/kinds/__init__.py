"""The VPN kinds: a package each, with its dialogue, its configuration reader and the program that drives
its client.
"""
