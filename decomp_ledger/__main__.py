"""`python -m decomp_ledger`."""

from decomp_ledger.cli import main

main()
