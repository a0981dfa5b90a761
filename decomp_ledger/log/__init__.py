"""Logs: the ledger's log, a table's log without torch, and the provenance of events."""
