"""What goes out: log, metrics, incidents."""
