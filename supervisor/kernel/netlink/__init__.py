"""The netlink socket, the codec of its messages, and the kernel's notifications (netlink(7),
rtnetlink(7)).
"""
