"""How good the shipped parts are on labelled recordings. Measured, written down, never a timed or gating test."""
