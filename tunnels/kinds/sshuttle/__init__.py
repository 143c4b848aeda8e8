"""sshuttle: TCP over ssh, as a proxy."""
