"""Images in and out of one file: an OCI image layout in a tar, or what `docker save` writes.

An import is a pull whose registry is the archive (`source.py`): what the archive does not hold, it
may not use, whatever else is here.
"""
