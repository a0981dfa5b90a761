"""Ledgers and exports on the move: JSON Lines, restore, and the stamp of a `.pt2`."""
