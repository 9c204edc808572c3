"""Where a blob is, as the text a catalogue row keeps.

Two forms, neither derived from anything the bytes are called:

- `s/<segment>/<offset>`: a record in a segment; `<segment>` is `<incarnation>-<n>` and `<offset>` the
  position of the record's header. Both numbers are zero-padded, so that text order is order on the disk.
- `f/<directory>/<name>`: a file of its own; `<directory>` is `<incarnation>-<n>` and `<name>` is random.

A location is checked before it becomes a path, so that a row, however wrong, cannot lead outside the root.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Literal, Self

_TEXT = re.compile(
    r"s/(?P<segment>[0-9a-f]{16}-[0-9]{6,9})/(?P<offset>[0-9]{10,15})"
    r"|f/(?P<directory>[0-9a-f]{16}-[0-9]{6,9})/(?P<name>[0-9a-f]{24})"
)
_CONTAINER = re.compile(r"[0-9a-f]{16}-[0-9]{6,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One blob's place: `container` is the segment or the directory, `entry` the offset or the name in it."""

    kind: Literal["segment", "file"]
    container: str
    entry: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the location that `text` spells.

        Raises:
            ValueError: it is no location of this store.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a blob location")
        segment, offset, directory, name = match.group("segment", "offset", "directory", "name")
        if segment is not None:
            return cls(kind="segment", container=segment, entry=offset)
        return cls(kind="file", container=directory, entry=name)

    @property
    def offset(self) -> int:
        """The position of the record's header in its segment."""
        if self.kind != "segment":
            raise ValueError(f"{self} is a file of its own and has no offset")
        return int(self.entry)

    def __str__(self) -> str:
        return f"{self.kind[0]}/{self.container}/{self.entry}"


def segment_location(segment: str, offset: int) -> str:
    """Return the text for the record of `segment` whose header starts at `offset`."""
    return f"s/{segment}/{offset:010d}"


def file_location(directory: str, name: str) -> str:
    """Return the text for the file `name` of `directory`."""
    return f"f/{directory}/{name}"


def parse_of_kind(text: str, kind: Literal["segment", "file"]) -> Location:
    """Return the location that `text` spells, which must be of this kind."""
    location = Location.parse(text)
    if location.kind != kind:
        raise ValueError(f"{text} is not a {kind} location")
    return location


def is_container(name: str) -> bool:
    """Return whether a segment or a directory of files may bear this name."""
    return _CONTAINER.fullmatch(name) is not None


def container_name(incarnation: str, number: int) -> str:
    """Return the name of the `number`th segment, or directory, of one process's life."""
    return f"{incarnation}-{number:06d}"


def new_incarnation() -> str:
    """Return a random name for one process's life."""
    return secrets.token_hex(8)


def new_file_name() -> str:
    """Return a random name for one file; 96 bits, so that two never meet."""
    return secrets.token_hex(12)
