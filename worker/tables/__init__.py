"""Files of tables: results written, and tables of others read."""
