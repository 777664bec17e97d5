"""Freed memory goes back to the system, so that a run of days holds what one of minutes does."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back"]


def give_back() -> None:
    """Returns what the allocator keeps of freed memory; some ten milliseconds, in which others may wait for memory.

    glibc keeps its heap up to the highest block in use, and tensors, scores and rows of very different sizes leave
    holes. Other allocators do not need it.
    """
    if sys.platform == "linux" and hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


_libc = ctypes.CDLL(None)
