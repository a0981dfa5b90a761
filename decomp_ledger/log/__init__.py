"""A table's log without torch, and the provenance of its events."""
