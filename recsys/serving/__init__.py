"""Models in processes without Spark."""
