"""Decoding a layer's bytes: one entry and one file for each encoding."""
