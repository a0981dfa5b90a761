"""Faults that a ledger must survive; each is a function that injects one many times and returns rows of results.

`scripts/torture` runs them in full; `tests/system/test_torture.py` runs a short form of each.
"""
