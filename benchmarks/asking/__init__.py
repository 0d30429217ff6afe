"""What `benchmarks/rpc.py` is made of."""

SERVICE = "runtime.v1.ImageService"
