"""The HTTP API: alerts, status, the local model, metrics. Imported when somebody asks for the first time."""
