"""A small disk of its own for a PostgreSQL that is to run out of room: a tmpfs. Only root can have one."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from seawall.drills.undo import see_through, until
from seawall.errors import Misconfigured

BALLAST: Final = "drill-ballast"
UNMOUNTED_WITHIN_S: Final = 20.0
MIB: Final = 1024 * 1024


def why_no_small_disk() -> str:
    """Return why none can be had here, or nothing."""
    return "" if os.geteuid() == 0 else "only root can mount a tmpfs"


@asynccontextmanager
async def small_disk(directory: Path, *, size_bytes: int) -> AsyncIterator[Path]:
    """Mount a tmpfs on an empty directory for the length of the block. Whatever is on it is lost.

    Raises:
        Misconfigured: this system does not allow it.
    """
    why = why_no_small_disk()
    if not why:
        why = await _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0711", "tmpfs", str(directory))
    if why:
        raise Misconfigured(f"There is no small disk for this drill: {why}.")
    try:
        yield directory
    finally:
        await see_through(_unmount(directory))


@asynccontextmanager
async def filled(directory: Path) -> AsyncIterator[None]:
    """Leave no room on the disk of `directory`, for the length of the block."""
    ballast = directory / BALLAST
    try:
        await asyncio.to_thread(_fill, ballast)
        yield
    finally:
        ballast.unlink(missing_ok=True)


def free_bytes(directory: Path) -> int:
    """Return how much room there is for who is not root."""
    seen = os.statvfs(directory)
    return seen.f_bavail * seen.f_frsize


def _fill(ballast: Path) -> None:
    """Write until there is no room. Pieces get smaller towards the end, so that none is left over."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        at, piece_bytes = 0, 16 * MIB
        while piece_bytes >= 4096:
            try:
                os.posix_fallocate(descriptor, at, piece_bytes)
                at += piece_bytes
            except OSError:
                piece_bytes //= 2
    finally:
        os.close(descriptor)


async def _unmount(directory: Path) -> None:
    async def is_unmounted() -> bool:
        return not await _run("umount", str(directory))

    # Whoever was killed on it may not have let go yet.
    await until(is_unmounted, within_s=UNMOUNTED_WITHIN_S, what=f"{directory} is unmounted")


async def _run(*command: str) -> str:
    """Run a program; return what it complained of, or nothing where it did as told."""

    def run() -> str:
        try:
            done = subprocess.run(  # noqa: S603 - programs of the system, our own arguments
                command, check=False, capture_output=True, text=True, timeout=UNMOUNTED_WITHIN_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return "" if done.returncode == 0 else done.stderr.strip() or f"{command[0]} ended with {done.returncode}"

    return await asyncio.to_thread(run)
