"""Which images a node removes by itself (`image.gc`): `decide` is pure, `collector` does it."""
