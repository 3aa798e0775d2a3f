"""Judging a model: temporal split, metrics, gate."""
