"""Keep freed memory for the next body.

The C library gives each block above 128 KiB back to the system when it is freed. For a server that
receives large bodies piece by piece that is a page fault for every 4 KiB of every body: it makes them
three to six times as dear. Source: mallopt(3).
"""

import ctypes
import logging

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_THRESHOLD = -3

MMAP_THRESHOLD_BYTES = 32 * 1024 * 1024
TRIM_THRESHOLD_BYTES = 64 * 1024 * 1024
TOP_PAD_BYTES = 1024 * 1024


def keep_large_blocks() -> None:
    """Set the thresholds of this process; a C library without them goes on as it was."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.info("malloc.not_tuned")
        return
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
    mallopt(M_TOP_PAD, TOP_PAD_BYTES)
