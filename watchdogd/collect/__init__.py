"""Room 1: raw records from their sources, each with its position."""
