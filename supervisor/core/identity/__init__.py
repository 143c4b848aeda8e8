"""Who is behind an address of staff: the book of a hub, what its sources say, and what follows from it."""
