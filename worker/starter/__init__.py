"""The weights that come with the package; the README says how they were made."""
