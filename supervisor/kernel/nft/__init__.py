"""Our nftables table, and those of other programs."""
