"""The commands of `facilitator-hub`."""
