"""Weights files: the bundled ones, and safe reading of anybody's."""
