"""Guides: models that make the first result for a hole."""
