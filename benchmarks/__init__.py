"""Benchmarks: `make bench`. Nothing here is a test; the machine decides how long things take."""
