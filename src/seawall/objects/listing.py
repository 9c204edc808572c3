"""Where a page of a listing starts and ends, and what is on it.

Keys are ordered by code point, in PostgreSQL (`collate "C"` on UTF-8) as in Python. A page starts at a
seek position: the smallest string that may come next, itself included. It is the exact successor of
the last name on the page before. Anything larger loses keys: after `a`, `a/` would skip `a b`, `a-1`
and `a.txt`. Anything smaller shows the last name again.

This module knows the names of query columns, and nothing of connections or XML.
"""

import base64
import binascii
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from seawall.errors import Invalid

SMALLEST: Final = "\x01"
"""The smallest character of a key: none holds NUL, which PostgreSQL cannot store."""

LARGEST: Final = "\U0010ffff"
BEFORE_SURROGATES: Final = "\ud7ff"
AFTER_SURROGATES: Final = "\ue000"

BEYOND_EVERY_KEY: Final = LARGEST * 257
"""A key is at most 1,024 bytes long, which is 256 of the largest characters."""

MAC_BYTES: Final = 16
"""Half of SHA-256: a forged position would only show its forger what they may list anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageBounds:
    """What the query for one page asks: `seek` included, `stop` excluded.

    `delimiter_end` replaces the delimiter at the end of a common prefix to give what follows
    everything in it.
    """

    prefix: str
    delimiter: str
    delimiter_end: str
    seek: str
    stop: str
    page_size: int

    def arguments(self, bucket_id: int) -> Sequence[object]:
        """Return the arguments of the query `list_page`, in its order."""
        return (bucket_id, self.prefix, self.delimiter, self.delimiter_end, self.seek, self.stop, self.page_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a bucket, by columns: a thousand small values would cost more than the query did.

    The columns of objects are equally long and in the order of `keys`. `last_modified_s` is in seconds
    since 1970, UTC. A checksum is '' where the writer gave none.
    """

    keys: Sequence[str] = ()
    sizes_bytes: Sequence[int] = ()
    etags: Sequence[str] = ()
    last_modified_s: Sequence[float] = ()
    checksums: Sequence[str] = ()
    prefixes: Sequence[str] = ()
    next_seek: str | None = None

    def __len__(self) -> int:
        return len(self.keys) + len(self.prefixes)

    @property
    def is_truncated(self) -> bool:
        """Whether there is more than this page shows."""
        return self.next_seek is not None

    @property
    def last_name(self) -> str:
        """The key or common prefix that comes last, '' on an empty page. It serves as a marker."""
        return max([*self.keys[-1:], *self.prefixes[-1:]], default="")

    def objects(self) -> Iterator[tuple[str, int, str, float, str]]:
        """Yield key, size, entity tag, time of change and checksum of each object."""
        return zip(self.keys, self.sizes_bytes, self.etags, self.last_modified_s, self.checksums, strict=True)


def successor_of_key(key: str) -> str:
    """Return the smallest string after `key`.

    >>> successor_of_key("a")
    'a\\x01'
    """
    return key + SMALLEST


def successor_of_prefix(prefix: str) -> str | None:
    """Return the smallest string after all that start with `prefix`; None when nothing comes after them.

    >>> successor_of_prefix("photos/")
    'photos0'
    """
    stem = prefix.rstrip(LARGEST)
    if not stem:
        return None
    last = stem[-1]
    return stem[:-1] + (AFTER_SURROGATES if last == BEFORE_SURROGATES else chr(ord(last) + 1))


def seek_position(*, prefix: str, delimiter: str, start_after: str) -> str:
    """Return where a listing that starts after a name given by the client begins.

    A name that is itself a common prefix of this listing stands for all it holds, because version 1
    gives such a name as the marker of the next page. Any other is compared with keys: after `a/b`
    the common prefix `a/` still comes, when it holds a key after `a/b`.
    """
    if not start_after:
        return prefix
    if _is_common_prefix(start_after, prefix=prefix, delimiter=delimiter):
        return successor_of_prefix(start_after) or BEYOND_EVERY_KEY
    return max(prefix, successor_of_key(start_after))


def page_bounds(*, prefix: str, delimiter: str, seek: str, max_keys: int) -> PageBounds:
    """Return what to ask for, one entry more than wanted: that tells whether there are more.

    Args:
        prefix: what every key must start with; '' for all.
        delimiter: any string that ends a common prefix; '' for none.
        seek: from `seek_position`, or from the token of the page before.
        max_keys: how many keys and common prefixes to show.

    Raises:
        Invalid: a text holds what no key can hold.
    """
    for text in (prefix, delimiter, seek):
        _refuse_unstorable(text)
    return PageBounds(
        prefix=prefix,
        delimiter=delimiter,
        delimiter_end=successor_of_prefix(delimiter) or delimiter + BEYOND_EVERY_KEY,
        seek=max(prefix, seek),
        stop=successor_of_prefix(prefix) or BEYOND_EVERY_KEY,
        page_size=max_keys + 1 if max_keys > 0 else 0,
    )


def read_page(row: Any, *, max_keys: int) -> Page:
    """Turn the answer of the query `list_page` into a page; the entry too many only says that there is more."""
    keys: list[str] = row["keys"] or []
    sizes_bytes: list[int] = row["sizes_bytes"] or []
    etags: list[str] = row["etags"].split(" ") if keys else []
    last_modified_s: list[float] = row["last_modified_s"] or []
    checksums: list[str] = row["checksums"].split(" ") if keys else []
    prefixes: list[str] = row["prefixes"] or []
    next_seek = None
    if len(keys) + len(prefixes) > max_keys:
        objects: tuple[list[Any], ...] = (keys, sizes_bytes, etags, last_modified_s, checksums)
        for column in (prefixes,) if _prefix_is_last(keys, prefixes) else objects:
            column.pop()
        next_seek = successor_of_prefix(prefixes[-1]) if _prefix_is_last(keys, prefixes) else successor_of_key(keys[-1])
    return Page(
        keys=keys,
        sizes_bytes=sizes_bytes,
        etags=etags,
        last_modified_s=last_modified_s,
        checksums=checksums,
        prefixes=prefixes,
        next_seek=next_seek,
    )


def encode_token(secret: bytes, seek: str) -> str:
    """Return a continuation token: a seek position, and proof that it is ours."""
    position = seek.encode()
    return base64.urlsafe_b64encode(_mac(secret, position) + position).rstrip(b"=").decode()


def decode_token(secret: bytes, token: str) -> str:
    """Return the seek position in a continuation token.

    Raises:
        Invalid: it is not a token of ours, letter by letter.
    """
    try:
        signed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("The continuation token provided is incorrect.") from error
    position = signed[MAC_BYTES:]
    if not hmac.compare_digest(signed[:MAC_BYTES], _mac(secret, position)):
        raise Invalid("The continuation token provided is incorrect.")
    seek = position.decode()
    # Base64 has several spellings of the same bytes; we issue one.
    if encode_token(secret, seek) != token:
        raise Invalid("The continuation token provided is incorrect.")
    return seek


def _mac(secret: bytes, position: bytes) -> bytes:
    return hmac.digest(secret, b"continuation token\0" + position, "sha256")[:MAC_BYTES]


def _prefix_is_last(keys: Sequence[str], prefixes: Sequence[str]) -> bool:
    return bool(prefixes) and (not keys or prefixes[-1] > keys[-1])


def _is_common_prefix(name: str, *, prefix: str, delimiter: str) -> bool:
    if not delimiter or not name.startswith(prefix):
        return False
    at = name.find(delimiter, len(prefix))
    return at >= 0 and at + len(delimiter) == len(name)


def _refuse_unstorable(text: str) -> None:
    try:
        storable = b"\0" not in text.encode()
    except UnicodeEncodeError:
        storable = False
    if not storable:
        raise Invalid("A key holds neither NUL nor half a character.")
