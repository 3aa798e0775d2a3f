"""Jobs: arguments -> run(...) -> exit code; the logic is in recsys/."""
