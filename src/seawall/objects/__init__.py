"""The domain: buckets, keys, uploads; the verbs put, open, list, delete.

It knows nothing of HTTP or S3's words. Start reading at `store`.
"""

from seawall.objects.store import ObjectSettings, ObjectStore
from seawall.objects.uploads import NamedPart, Uploads

__all__ = ["NamedPart", "ObjectSettings", "ObjectStore", "Uploads"]
