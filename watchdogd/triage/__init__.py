"""Room 6: the model advises; it never decides alone."""
