"""The network: its definition, its weights, and Monte Carlo dropout. Only this needs torch."""
