"""What an operator may choose about the disk."""

from dataclasses import dataclass
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSettings:
    """Where blobs are kept, and the limits of keeping them.

    `segment_blob_max_bytes` parts the two tiers: `benchmarks/blob_tiers.py` measures it. The store
    itself appends whatever it is given up to 1 MiB; choosing the tier is the caller's.
    """

    root: Path
    segment_blob_max_bytes: int = MIB
    segment_size_bytes: int = 256 * MIB
    append_queue_max: int = 4096
    append_queue_max_bytes: int = 64 * MIB
    files_per_directory: int = 4096
    open_segments_max: int = 64
    reserve_bytes: int = 256 * MIB
    threads: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.segment_blob_max_bytes <= MIB:
            raise ValueError("segment_blob_max_bytes must be from 1 byte to 1 MiB: a record is read in one go")
        if self.segment_size_bytes < self.segment_blob_max_bytes:
            raise ValueError("segment_size_bytes must hold at least one blob of segment_blob_max_bytes")
        if self.append_queue_max_bytes < self.segment_blob_max_bytes:
            raise ValueError("append_queue_max_bytes must let at least one blob of segment_blob_max_bytes wait")
        if min(self.append_queue_max, self.files_per_directory, self.open_segments_max, self.threads) < 1:
            raise ValueError("append_queue_max, files_per_directory, open_segments_max and threads must be at least 1")
        if self.reserve_bytes < 0:
            raise ValueError("reserve_bytes cannot be negative")
