"""The history in SQLite: sessions, transitions, incidents, availability."""
