"""What the catalogue holds: buckets and objects, as values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket, and whose it is."""

    bucket_id: int
    name: str
    owner_id: int
    region: str
    created_at: datetime

    @classmethod
    def of(cls, row: Any) -> Self:
        """Read a row of the catalogue."""
        return cls(
            bucket_id=row["bucket_id"],
            name=row["name"],
            owner_id=row["owner_id"],
            region=row["region"],
            created_at=row["created_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose a bucket is, as others see it."""

    canonical_id: str
    display_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the writer said about an object, to be given back: a media type and other headers.

    The names of headers are in lower case. Their values hold no line breaks.
    """

    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def headers_json(self) -> str | None:
        """The headers as the catalogue keeps them."""
        return json.dumps(self.headers) if self.headers else None

    @classmethod
    def of(cls, row: Any) -> Self:
        """Read a row of the catalogue."""
        headers = row["headers"]
        return cls(content_type=row["content_type"], headers=json.loads(headers) if headers else {})


@dataclass(slots=True, kw_only=True)
class Version:
    """One version of an object, and where its bytes are: in here, in one blob, or in parts."""

    version_id: UUID
    size_bytes: int
    etag: str
    last_modified: datetime
    content_type: str | None
    headers_json: str | None
    checksum: str | None
    inline: bytes | None
    location: str | None
    upload_id: UUID | None

    @classmethod
    def of(cls, row: Any) -> Self:
        """Read a row of the catalogue."""
        return cls(
            version_id=row["version_id"],
            size_bytes=row["size_bytes"],
            etag=row["etag"],
            last_modified=row["last_modified"],
            content_type=row["content_type"],
            headers_json=row["headers"],
            checksum=row["checksum"],
            inline=row["inline"],
            location=row["location"],
            upload_id=row["upload_id"],
        )

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers the writer gave besides the media type."""
        if self.headers_json is None:
            return {}
        headers: Mapping[str, str] = json.loads(self.headers_json)
        return headers

    @property
    def parts_count(self) -> int | None:
        """Of how many parts it was put together; None when it was written at once."""
        _, dash, count = self.etag.partition("-")
        return int(count) if dash else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Bytes `start` up to, but not including, `stop`.

    Half-open, so that an empty object has a span too. HTTP counts to the last byte instead; the
    doors convert.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"a span cannot run from {self.start} to {self.stop}")

    @property
    def size_bytes(self) -> int:
        """How many bytes it holds."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What must hold of the present version for a write to happen.

    `absent`: there is none. `etag`: it is this one.
    """

    absent: bool = False
    etag: str | None = None

    def __bool__(self) -> bool:
        return self.absent or self.etag is not None


UNCONDITIONAL = Condition()
