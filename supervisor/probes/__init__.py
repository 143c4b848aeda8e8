"""Does traffic pass."""
