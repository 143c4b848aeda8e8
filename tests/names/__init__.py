"""The name service: messages, filters, cache."""
