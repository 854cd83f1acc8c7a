"""The ledger: what happens to jobs, from registering a spectrum to its row."""
