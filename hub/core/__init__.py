"""What the hub decides, and the documents that its processes exchange. Pure: no I/O, clock or randomness."""
