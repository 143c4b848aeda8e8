"""The product as a whole in the lab: real clients, real servers, the real kernel."""
