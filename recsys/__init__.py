"""A recommender system for production teams: ingestion, ALS on user blocks, judgement, publication."""

__version__ = "0.1.0"
