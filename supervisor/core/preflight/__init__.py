"""Preflight checks (`facilitator doctor`): is this host fit for the configuration? Facts in, findings out.

Pure: `supervisor.app.preflight` gathers the facts. `checklist` has all checks, `live` those that a running
daemon repeats.
"""
