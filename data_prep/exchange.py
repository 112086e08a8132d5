"""Two folders that change places in one moment, so that no reader and no kill ever finds neither."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fs.h
UNABLE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}  # an old kernel, a file system without it


def exchange(one: Path, other: Path) -> bool:
    """Whether it was done: only Linux can, and not on every file system; raises OSError for any other failure."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNABLE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))
