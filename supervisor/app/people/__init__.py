"""People behind addresses of staff: the source of identity, and what follows from it."""
