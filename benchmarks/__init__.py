"""Measurements against MLlib, implicit and cmfrec: same data, same cores, one run."""
