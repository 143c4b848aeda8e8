"""The name service: a process of its own that answers staff with the customers' names.

staff -> `serving` -> `resolver` -> cache, or `asking` through the tunnel's lane -> `answers` -> staff

The daemon tells it what it needs and counts what it did (`program`); nothing of this is imported there.
"""
