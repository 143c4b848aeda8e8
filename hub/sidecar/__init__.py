"""The sidecar of an OpenVPN server: decides its logins by asking the session service, and ends sessions."""
