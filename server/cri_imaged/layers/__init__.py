"""The applier: decompression, tar reading, confined writing, worker processes."""
