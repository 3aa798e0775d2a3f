"""Alternating least squares on user blocks; no I/O."""
