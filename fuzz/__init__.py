"""Fuzzing of what reads bytes from a watched host: `make fuzz`."""
