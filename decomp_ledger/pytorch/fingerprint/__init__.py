"""Digests of Python functions by their source."""
