"""Transforms, by the names that they have since Girder 5."""
