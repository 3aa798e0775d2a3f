"""The demo: the sample as landing files, the loop, and what came of it."""
