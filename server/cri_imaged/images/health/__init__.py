"""Keeping the store whole: durability, check, rebuild, salvage, recovery.

Durable without waiting for the disk. A pull answers when its data is verified and visible. In the
background rows not yet durable are selected, the file systems synced (`syncfs` on descriptors
opened before the writes), then marked, never on an error: of what a failed sync was for no later
one says anything, as the kernel tells of a lost write only once. After a process crash everything
stands. Under another epoch blobs not yet durable are verified by hash, such snapshots are given
up, and images that stood on them are hidden until they have been unpacked again from their blobs.
`image_pull_with_sync_fs` makes the pull wait. Durability marks and deletions are fsynced
transactions, the rest are not.

Damage. A blob's state is present, discarded (on purpose) or lost; a lost snapshot has no chainID
any more, so that the chainID is free for a new one. An image with either is not READY. `check.py`
finds damage (online, offline, and a quick form every five minutes), `rebuild.py` unpacks again
what has its blobs, a pull brings the rest. `discard_unpacked_layers` drops layers' blobs once
their snapshots are durable; a listing of each tree, written before, is what `check` compares
then. Of a layer that is one file the digest is taken when it is durable: `check` needs no blob, and
the quick form reads a file whose size or time is another. A corrupt database is set aside and
images are salvaged from their blobs, by their IDs (`salvage.py`); the epoch is written last, so a
database without one is salvaged again.
"""
