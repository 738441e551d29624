"""Room 4: Sigma YAML becomes closures, events become matches."""
