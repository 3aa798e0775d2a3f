"""The one data structure: packed user blocks."""
