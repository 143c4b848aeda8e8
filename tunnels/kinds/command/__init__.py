"""Any program that makes a tunnel interface."""
