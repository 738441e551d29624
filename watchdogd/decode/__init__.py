"""Room 2: lines become records, records become events."""
