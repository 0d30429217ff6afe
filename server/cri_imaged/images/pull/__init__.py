"""Pulling an image, from a reference to a ready image."""
