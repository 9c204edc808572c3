"""What can go wrong, in our own words.

Errors are named where they happen and translated once per door: no status code and no S3 error
code stands here. A class's docstring is its default message.
"""


class SeawallError(Exception):
    """The service declined, or failed, to do what was asked."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class Missing(SeawallError):
    """The thing named does not exist, or the caller may not know that it does."""


class NoSuchBucket(Missing):
    """The specified bucket does not exist."""


class NoSuchKey(Missing):
    """The specified key does not exist."""


class NoSuchUpload(Missing):
    """The specified upload does not exist. It may have been aborted or completed."""


class NoSuchAccount(Missing):
    """There is no account of that name."""


class Denied(SeawallError):
    """Access Denied."""


class Conflict(SeawallError):
    """What was asked contradicts what is there."""


class BucketExists(Conflict):
    """The requested bucket name is not available."""


class BucketOwned(Conflict):
    """The bucket already exists and belongs to the caller."""


class BucketNotEmpty(Conflict):
    """The bucket you tried to delete is not empty."""


class AccountExists(Conflict):
    """An account of that name, id or access key already exists."""


class PreconditionFailed(SeawallError):
    """At least one of the pre-conditions you specified did not hold."""


class Invalid(SeawallError):
    """What was asked makes no sense."""


class BadDigest(Invalid):
    """The checksum sent does not match the bytes received."""


class IncompleteBody(Invalid):
    """Fewer bytes arrived than were announced."""


class InvalidPart(Invalid):
    """One or more of the specified parts could not be found, or its checksum does not match."""


class InvalidPartOrder(Invalid):
    """The list of parts was not in ascending order."""


class PartTooSmall(Invalid):
    """A part other than the last is smaller than the minimum allowed size."""


class InvalidSpan(Invalid):
    """The requested range lies outside the object."""


class Unavailable(SeawallError):
    """The service cannot answer now; the same request may succeed later."""


class Overloaded(Unavailable):
    """The service is protecting itself; the same request may succeed later."""

    def __init__(self, *, retry_after_s: float = 1.0) -> None:
        super().__init__(f"Please reduce your request rate; try again in {retry_after_s:g} s.")
        self.retry_after_s = retry_after_s


class DatabaseDown(Unavailable):
    """The catalogue cannot be reached."""


class OutcomeUnknown(DatabaseDown):
    """The catalogue was lost before it said whether it did what was asked."""


class DeadlineExceeded(Unavailable):
    """The request waited as long as it may, and was not started."""


class StorageFull(SeawallError):
    """There is not enough free space on the disk to store this."""


class BlobMissing(SeawallError):
    """No bytes are stored under this name."""


class BlobCorrupt(SeawallError):
    """The bytes on the disk do not match their checksum."""


class NotRunning(SeawallError):
    """No service is running here."""


class Misconfigured(SeawallError):
    """The settings cannot work; the message says which, and what to change."""
