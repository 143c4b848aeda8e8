"""The configuration file as a value."""
