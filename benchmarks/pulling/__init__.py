"""What `benchmarks/pull.py` is made of."""
