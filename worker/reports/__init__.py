"""Reports: pages of text, tables and pictures."""
