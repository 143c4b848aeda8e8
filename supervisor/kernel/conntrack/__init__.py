"""Connection tracking: reading, counting, moving and watching flows."""
