"""The staff VPN's side: a session service that knows who is connected, and a sidecar for OpenVPN servers."""
