"""What the stream is doing: status and metrics."""
