"""What is to be processed: finding spectra, registering them, opening and dispatching jobs."""
