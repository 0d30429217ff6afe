"""Snapshotters: overlay, native and erofs behind one interface.

`overlay` where a trial mount succeeds (not by user ID): one directory for each layer, mounted with
its parents as lowerdirs. `native` elsewhere: at the seal the parent's tree is cloned, its regular
files as hardlinks, and the layer is moved in; committed trees never change, so sharing is safe, and
a writable view is a real copy. Any file system, no privilege. `erofs`: each layer an image in one
file, mounted once for all that stand on it, and merged by overlay; the seal edits the image. Rows
are keyed `(snapshotter, chainID)`. With each is kept what could not be put on disk and its
provenance: which blobs, of which repositories, were seen to give it. A mount given out is a view: a
row that survives restarts and holds its snapshot by foreign key. RemoveImage of a mounted image
succeeds and hides it; its snapshots go when the last view is released. After a reboot read-only
views that nobody has mounted are released; any other stale view is only told, as it may hold data
or be in use where we cannot look.
"""
