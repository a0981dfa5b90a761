"""The only folder that knows torch, and the only one that touches its private parts."""
