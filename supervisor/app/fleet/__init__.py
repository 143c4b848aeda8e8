"""This member of a fleet: orders, the lock engine, and what others are told"""
