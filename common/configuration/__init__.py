"""A configuration file in YAML: its text with line and column, and what is wrong with it, in sentences."""
