"""What each Python child of a recorded program runs at its start. The folder is put first in PYTHONPATH."""
