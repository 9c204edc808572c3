"""The S3 protocol: signatures, XML, headers, status codes.

It translates between S3's words and the house's and decides nothing about storage. Start reading
at `door`.
"""

from seawall.s3.door import S3Door, S3Settings
from seawall.s3.doorkeeper import Doorkeeper

__all__ = ["Doorkeeper", "S3Door", "S3Settings"]
