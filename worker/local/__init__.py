"""A stack on this host: its redis-server and its workers as child processes."""
