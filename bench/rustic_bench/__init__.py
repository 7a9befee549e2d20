"""Benchmarks of the engine beside its peers. `make bench` runs everything; see docs/performance.md."""
