"""What the project's claims of speed and memory rest on; results lie in `benchmarks/results`."""
