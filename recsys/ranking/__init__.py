"""Lists from factors and trend: top-N, fallback, explanations; no I/O."""
