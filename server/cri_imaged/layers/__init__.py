"""The applier: turns a layer's bytes into a directory, in confined worker processes."""
