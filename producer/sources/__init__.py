"""Where spectra come from: files, folders, names, tables of the survey."""
