"""Checking a ledger: verify, anchors, checkpoints, SSH signatures."""
