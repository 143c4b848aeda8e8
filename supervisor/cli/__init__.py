"""Commands; they talk to the daemon through its control socket."""
