"""Snapshots that another program keeps (containerd's proxy snapshotters: stargz, nydus, SOCI).

We are the client of containerd's snapshots API v1, as containerd is. What was given out there bears
our label, and is named by its chainID once it is committed; rows of ours say what of it is in use,
and what has none is removed from there. A proxy may have a layer that nobody fetched (`claim`).
What it has not is applied into the mounts that it gives and sealed there as overlay does.

A proxy is trusted with what it keeps, and with nothing else: its mounts lead below the directory
that the operator names, and it has a deadline for each answer.
"""
