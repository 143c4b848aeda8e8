"""Little programs that the lab runs in its namespaces. Standard library only; each is started as a file,
never imported.
"""
