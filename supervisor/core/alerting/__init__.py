"""Who is paged: verdicts on tunnels, flap damping, grouping by common cause, incidents."""
