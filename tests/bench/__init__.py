"""`make bench`: what the supervision costs, the floor and ours side by side in one run."""
