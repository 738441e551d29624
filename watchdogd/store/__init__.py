"""Room 5: SQLite, the only state."""
