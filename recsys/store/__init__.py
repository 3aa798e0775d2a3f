"""Delta tables, MLflow registry, generations, locks: the only I/O."""
