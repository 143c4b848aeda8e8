"""Netlink on the daemon's event loop: the asyncio socket, and the kernel's notifications (netlink(7),
rtnetlink(7)).
"""
