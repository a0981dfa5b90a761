"""Faults that a ledger has to survive: each a function that tries one many times, and says what came of it.

`scripts/torture` runs them in full; `tests/test_torture.py` runs a short form of each.
"""
