"""The VPN clients as processes: spawned, watched, listened to and ended. `runner.Runner` is what the
engine drives.
"""
