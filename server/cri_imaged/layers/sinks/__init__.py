"""Where a layer's entries go: directories."""
