"""What to decide. Pure: no I/O, no clock, no randomness, no logging; time and chance are arguments."""
