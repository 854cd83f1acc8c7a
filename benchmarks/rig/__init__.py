"""Real servers and a stream of real processes, which benchmarks and acceptance tests disturb."""
