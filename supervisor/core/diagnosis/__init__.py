"""`facilitator why`: the checks along a packet's path, and the verdict."""
