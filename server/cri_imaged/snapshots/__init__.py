"""Snapshotters: overlay and native behind one interface."""
