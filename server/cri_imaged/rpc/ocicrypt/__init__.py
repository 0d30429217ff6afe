"""Generated gRPC stubs; made by `python proto/generate.py`, never edited."""
