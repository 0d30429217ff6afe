"""The use cases: image store, pull, unpack, remove, garbage collection, progress."""
