"""Extended attributes for an image: what a file system would take, as it would take it."""

from __future__ import annotations

import stat
from collections.abc import Mapping

from cri_imaged.erofs.acl import valid_list, with_mode
from cri_imaged.erofs.writer import Xattrs
from cri_imaged.erofs.xattrs import encode_xattr

_ACCESS, _DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
OVERLAYS = (b"trusted.overlay.", b"user.overlay.")
"""They would speak to overlayfs, not to the container."""
CAPABILITY = b"security.capability"
_ANYWHERE = (b"security.", b"trusted.")
"""What the kernel lets symlinks and fifos have, too."""
_CAPABILITY_FORMS = {(b"\x02", 20), (b"\x03", 24)}
"""Version and size of those that can be set (kernel, security/commoncap.c)."""


def allowed(xattrs: Mapping[bytes, bytes], mode: int) -> dict[bytes, bytes]:
    """Those that something of `mode`, as in `st_mode`, can have."""
    kept = {}
    for name, value in xattrs.items():
        taken = _taken(name, value, stat.S_IFMT(mode))
        if taken is not None and encode_xattr(name, taken) is not None:
            kept[name] = taken
    return kept


def encoded(xattrs: Mapping[bytes, bytes] | None, mode: int) -> Xattrs:
    """Allowed ones as an image holds them. An access ACL agrees with the mode."""
    out = {}
    for name, value in (xattrs or {}).items():
        shown = with_mode(value, mode) if name == _ACCESS else value
        entry = encode_xattr(name, shown) if shown is not None else None
        if entry is not None:
            out[name] = entry
    return out


def _taken(name: bytes, value: bytes, kind: int) -> bytes | None:
    if name.startswith(OVERLAYS):
        return None
    if kind not in (stat.S_IFREG, stat.S_IFDIR) and not name.startswith(_ANYWHERE):
        return None
    if name == _ACCESS or (name == _DEFAULT and kind == stat.S_IFDIR):
        return valid_list(value)
    if name == _DEFAULT:
        return None
    if name == CAPABILITY:
        fits = (value[3:4], len(value)) in _CAPABILITY_FORMS
        return value if fits and kind in (stat.S_IFREG, stat.S_IFDIR) else None
    return value
