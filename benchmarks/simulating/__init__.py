"""A network of nodes and registries, in virtual time."""
