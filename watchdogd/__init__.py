"""Host security watchdog for Linux: live Sigma on auditd, triaged by a local model."""

__version__ = "0.1.0"
