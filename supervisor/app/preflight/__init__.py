"""Preflight checks (`facilitator doctor`): gather facts about this host, within seconds and without changing
anything.

The facts are judged by `supervisor.core.preflight`. A running daemon repeats some of the checks
(`host_watch`).
"""
