"""The applier: turns a layer's bytes into a directory, in confined worker processes.

The tar reader is our own and small: a bare header loop over `os.open`/`os.write` keeps up with
GNU tar, the standard library's does not, and its stream mode ends silently at a corrupt header.
Decompression (isal, zstd) and hashing are libraries. An archive that ends between two entries, or
before the last one's block is filled up, without the end marker is taken, as other runtimes do:
whether it was cut off there, the diffID tells, and the error then names the last entry.

Semantics (the merged tree is what containerd's overlay gives; both snapshotters give the same):
- Whiteouts speak of the layers below, in any order within a layer: a same-named file of this
  layer drops it, a directory of this layer becomes opaque. They make nothing, so that a directory
  that a layer hides stays hidden; only an opaque of a directory that is not hidden makes that.
- An implicit directory (parent never listed) takes mode, owner, xattrs and mtime from the layers
  below at the seal; under `.wh.d` or with nothing below it is root 0755.
- A lower symlink used as a parent directory by an upper layer gives way to a directory.
- A hardlink to a file of a lower layer copies it up at the seal. Link counts are promised within
  one layer. A hardlink's own attributes are given to the file.
- The root is root's and 0755, whatever is listed; only its time is taken.
- Default ACLs, `security.*` and `trusted.*` are set by the daemon once the tree is complete.
- What AUFS kept in `.wh..wh.plnk` is put aside for the hardlinks to it, and is no part of the tree.
"""
