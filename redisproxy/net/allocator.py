"""Gives memory that is not used any more back to the system.

Owns how. The allocator keeps what was freed between other objects, which after an attack is
hundreds of megabytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _trimmer() -> Callable[[], object]:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return lambda: None
    return lambda: trim(0)


#: Gives free memory back. Takes about 0.1 ms for each MiB that it gives back.
release: Callable[[], object] = _trimmer()
