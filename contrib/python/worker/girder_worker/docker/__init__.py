"""Containers as tasks."""
