"""The command `astronn-stream`: a file for each of its commands."""
