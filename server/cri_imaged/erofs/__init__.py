"""EROFS images: the format, uncompressed, as a layer is written in one pass and sealed afterwards.

Facts are from the kernel (fs/erofs/erofs_fs.h, Documentation/filesystems/erofs.rst). Blocks are
4 KiB. Metadata may be anywhere: an inode's number is its address divided by 32, with the root's
right behind the superblock. Files' data is in the order in which it came; the last part of a block
stands inline behind its inode, which never crosses a block's end. Extended attributes that are seen
again are shared. Sparse files are chunks, holes among them. Directories are at the end. What holds
no time and no chance gives the same bytes everywhere: an image can be checked by its digest.
"""
