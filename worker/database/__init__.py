"""The catalogue of spectra, the ledger of jobs and the table of results."""
