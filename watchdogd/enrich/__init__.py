"""Room 3: who did it, from where, and how unusual that is."""
