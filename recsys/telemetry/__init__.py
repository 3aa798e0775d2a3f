"""What a run leaves for other systems: figures for Prometheus, run events for lineage."""
