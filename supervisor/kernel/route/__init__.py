"""Routes, policy rules and interfaces over rtnetlink."""
