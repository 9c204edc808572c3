"""Who was there, and for whom something failed: distinct users, exactly, minute by minute.

Accounts have small numbers without gaps, so a set of them is a bit for each: a million take 0.12 MiB, and the union of
two sets is one instruction for every 64 of them. A day of minutes is kept on the disk, each in a file of its own whose
name is its place in the day: what is a day older is written over, whatever the clock did in between.
"""

import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

log = logging.getLogger(__name__)

NUMBER_MAX: Final = 1 << 26
"""Account numbers are below this (a bitmap is 8 MiB then); what is not is nonsense, and counted as such."""

CLAIMED_MAX: Final = 10_000
"""Keys that were claimed and belong to nobody we know of, a minute: anybody can make them up."""

KEY_MAX_CHARACTERS: Final = 128

MINUTES_KEPT: Final = 24 * 60 + 60
UNWRITTEN_MAX: Final = 120
"""So many minutes wait in memory for a disk that does not take them."""

_MAGIC: Final = b"SEAUSERS"
_HEAD: Final = struct.Struct("<8sq")
_PART: Final = struct.Struct("<4sII")


class Bitmap:
    """A set of account numbers. State: a bit for each, and how many are set."""

    __slots__ = ("_bits", "count")

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._bits = bytearray()
        self.count = 0
        self.add(numbers)

    def __repr__(self) -> str:
        return f"<Bitmap {self.count}>"

    def __len__(self) -> int:
        return self.count

    def __contains__(self, number: int) -> bool:
        return 0 <= number < len(self._bits) * 8 and bool(self._bits[number >> 3] & 1 << (number & 7))

    def __iter__(self) -> Iterator[int]:
        for place, byte in enumerate(self._bits):
            if byte:
                yield from (place * 8 + bit for bit in range(8) if byte & 1 << bit)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bitmap) and self._bits.rstrip(b"\0") == other._bits.rstrip(b"\0")

    __hash__ = None  # type: ignore[assignment] # it changes

    def add(self, numbers: Iterable[int]) -> int:
        """Add numbers; return how many of them are none an account can have, and were passed over."""
        bits, added, passed_over = self._bits, 0, 0
        size = len(bits) * 8
        for number in numbers:
            if not 0 <= number < size:
                if not 0 <= number < NUMBER_MAX:
                    passed_over += 1
                    continue
                bits.extend(bytes((number >> 3) + 1 - len(bits)))
                size = len(bits) * 8
            place, bit = number >> 3, 1 << (number & 7)
            if not bits[place] & bit:
                bits[place] |= bit
                added += 1
        self.count += added
        return passed_over

    def update(self, other: "Bitmap") -> None:
        """Add all that are in the other one."""
        size = max(len(self._bits), len(other._bits))
        both = int.from_bytes(self._bits, "little") | int.from_bytes(other._bits, "little")
        self._bits = bytearray(both.to_bytes(size, "little"))
        self.count = both.bit_count()

    def __or__(self, other: "Bitmap") -> "Bitmap":
        union = Bitmap()
        union.update(self)
        union.update(other)
        return union

    def to_bytes(self, level: int = 1) -> bytes:
        """Return it compressed."""
        return zlib.compress(self._bits, level)

    @classmethod
    def from_bytes(cls, compressed: bytes) -> Self:
        """Return what was compressed.

        Raises:
            ValueError: these bytes are something else.
        """
        found = cls()
        try:
            unpacker = zlib.decompressobj()
            bits = unpacker.decompress(compressed, NUMBER_MAX // 8)
        except zlib.error as error:
            raise ValueError(f"not a bitmap: {error}") from error
        if not unpacker.eof:
            raise ValueError("not a bitmap: it does not end")
        found._bits = bytearray(bits)
        found.count = int.from_bytes(bits, "little").bit_count()
        return found


@dataclass(slots=True, kw_only=True)
class Users:
    """Of some time: the accounts that asked for something, and those for which it failed or was refused.

    `claimed` are the access keys of failures whose account is not known: it could not be looked up.
    """

    seen: Bitmap = field(default_factory=Bitmap)
    failed: Bitmap = field(default_factory=Bitmap)
    claimed: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.seen.count or self.failed.count or self.claimed)

    def update(self, other: "Users") -> None:
        """Add all that are in the other ones."""
        self.seen.update(other.seen)
        self.failed.update(other.failed)
        self.claim(other.claimed)

    def claim(self, keys: Iterable[Any]) -> None:
        """Add claimed keys, as long as there is room: strangers can make up any number of them."""
        for key in keys:
            if len(self.claimed) >= CLAIMED_MAX:
                return
            self.claimed.add(str(key)[:KEY_MAX_CHARACTERS])


class UserMinutes:
    """A day of minutes on the disk. Used by one thread. State: what the disk has not taken yet.

    A file begins with its minute; what follows are parts that are added up, so that what is new can be appended each
    second, and what was torn by a crash costs a second. When a minute is over its parts become one.
    """

    def __init__(self, directory: Path, *, kept: int = MINUTES_KEPT) -> None:
        self.directory = directory
        self._kept = kept
        self._sound: int | None = None
        self._unwritten: dict[int, Users] = {}

    def __repr__(self) -> str:
        return f"<UserMinutes {len(self._unwritten)} unwritten>"

    def add(self, minute: int, users: Users) -> None:
        """Add users to a minute. `flush` writes them; what the disk does not take then stays here."""
        waiting = self._unwritten.get(minute)
        if not users:
            return
        if waiting is None:
            self._unwritten[minute] = users
        else:
            waiting.update(users)
        if len(self._unwritten) > UNWRITTEN_MAX:
            lost = next(iter(self._unwritten))
            log.error("users.lost", extra={"minute": lost, "users": self._unwritten.pop(lost).seen.count})

    def flush(self) -> None:
        """Write what is not written.

        Raises:
            OSError: the disk did not take it.
        """
        for number in [*self._unwritten]:
            self._append(number, self._unwritten[number])
            del self._unwritten[number]

    def read(self, minute: int) -> Users:
        """Return who was there in a minute.

        Raises:
            OSError: the disk did not give it.
        """
        users = Users()
        waiting = self._unwritten.get(minute)
        if waiting is not None:
            users.update(waiting)
        try:
            content = self._path(minute).read_bytes()
        except FileNotFoundError:
            return users
        if _minute_of(content) == minute:
            for part in _parts(content):
                users.update(part)
        return users

    def between(self, since_s: float, until_s: float) -> Users:
        """Return who was there in the minutes from that of `since_s` to that of `until_s` (wall), a day at the most.

        Raises:
            OSError: the disk did not give it.
        """
        users = Users()
        last = int(until_s // 60)
        for minute in range(max(int(since_s // 60), last - self._kept + 1), last + 1):
            users.update(self.read(minute))
        return users

    def compact(self, minute: int) -> None:
        """Write a minute that is over as one part, well compressed.

        Raises:
            OSError: the disk did not take it; what was there is there.
        """
        users = self.read(minute)
        if not users:
            return
        self._sound = None
        path = self._path(minute)
        fresh = path.with_name(f"{path.name}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write(descriptor, _HEAD.pack(_MAGIC, minute) + _pack(users, level=6))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(path)
        self._unwritten.pop(minute, None)

    def _append(self, minute: int, users: Users) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path(minute), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if self._sound != minute:
                _make_sound(descriptor, minute)
            self._sound = None
            _write(descriptor, _pack(users, level=1))
            self._sound = minute
        finally:
            os.close(descriptor)

    def _path(self, minute: int) -> Path:
        return self.directory / f"minute-{minute % self._kept:04d}.users"


def _make_sound(descriptor: int, minute: int) -> None:
    """Leave in a file what can be read of its minute: what follows a torn part could not be."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    if _minute_of(content) != minute:
        os.ftruncate(descriptor, 0)
        _write(descriptor, _HEAD.pack(_MAGIC, minute))
        return
    ends = [_HEAD.size, *(end for _, _, end in _bodies(content))]
    os.ftruncate(descriptor, ends[-1])


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _minute_of(content: bytes) -> int | None:
    if len(content) < _HEAD.size:
        return None
    magic, minute = _HEAD.unpack_from(content)
    return int(minute) if magic == _MAGIC else None


def _pack(users: Users, *, level: int) -> bytes:
    packed = b""
    for kind, body in (
        (b"SEEN", users.seen.to_bytes(level) if users.seen.count else b""),
        (b"FAIL", users.failed.to_bytes(level) if users.failed.count else b""),
        (b"KEYS", "\n".join(sorted(users.claimed)).encode("utf-8", "replace")),
    ):
        if body:
            packed += _PART.pack(kind, len(body), zlib.crc32(body)) + body
    return packed


def _parts(content: bytes) -> Iterator[Users]:
    for kind, body, _ in _bodies(content):
        match kind:
            case b"SEEN":
                yield Users(seen=Bitmap.from_bytes(body))
            case b"FAIL":
                yield Users(failed=Bitmap.from_bytes(body))
            case b"KEYS":
                yield Users(claimed={*body.decode("utf-8", "replace").split("\n")})


def _bodies(content: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield the kind, the body and the end of each part, up to the first that is not whole."""
    at = _HEAD.size
    while at + _PART.size <= len(content):
        kind, size, checksum = _PART.unpack_from(content, at)
        at += _PART.size
        body = content[at : at + size]
        if len(body) < size or zlib.crc32(body) != checksum:
            return
        at += size
        yield kind, body, at
