"""The session service: who is connected, who may log in, and the end of sessions, over mutual TLS."""
