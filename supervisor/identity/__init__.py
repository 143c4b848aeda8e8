"""Sources of identity: they say which person has which address of the staff VPN."""
