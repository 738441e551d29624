"""Room 7: the alert leaves the host."""
