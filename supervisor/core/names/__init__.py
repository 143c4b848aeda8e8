"""What the name service is to do, as values that the daemon sends to its process."""
