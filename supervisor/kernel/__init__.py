"""Routes, rules, nftables and link events."""
