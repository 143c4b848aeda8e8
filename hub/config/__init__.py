"""The configuration of the hub: /etc/facilitator-hub/config.yaml, and the file of people."""
