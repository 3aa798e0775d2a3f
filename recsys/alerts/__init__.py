"""What is watched, who is told, and what of it is still open."""
