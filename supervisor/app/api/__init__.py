"""What the running daemon answers: status, status page, why."""
