"""Bytes under random names, checksummed, written once, on a local disk.

A blob is immutable and says nothing about what it is called: this package knows nothing of keys, HTTP
or SQL. Small blobs are appended to segments and share fdatasyncs (`append`, `try_read`, `read`); large
ones get a file each (`new_file`, `open`, `link`, `delete`). When a location is returned, the bytes
survive a power cut; when bytes are returned, their checksum was verified.

    <root>/incoming/                      files on their way in, claimed by their writer's lock
    <root>/files/<incarnation>-<n>/<name>
    <root>/segments/<incarnation>-<n>

Start reading at `store`.
"""

from seawall.blobs.disk import Bytes, DiskFailed
from seawall.blobs.file_reader import FileReader
from seawall.blobs.file_writer import FileWriter
from seawall.blobs.frames import FRAME_BYTES
from seawall.blobs.housekeeping import SealedSegment
from seawall.blobs.locations import Location
from seawall.blobs.segments import FoundRecord
from seawall.blobs.settings import BlobSettings
from seawall.blobs.store import DiskBlobStore

__all__ = [
    "FRAME_BYTES",
    "BlobSettings",
    "Bytes",
    "DiskBlobStore",
    "DiskFailed",
    "FileReader",
    "FileWriter",
    "FoundRecord",
    "Location",
    "SealedSegment",
]
