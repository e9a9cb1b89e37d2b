"""The transforms of tasks in Python."""
