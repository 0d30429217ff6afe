"""The content store: ingests and blobs."""
