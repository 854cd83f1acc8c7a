"""Labels against those that are known: statistics, and the noise model that they ask for."""
