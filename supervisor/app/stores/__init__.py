"""Files that outlive the daemon: state records, stopped tunnels, the upgrade document."""
