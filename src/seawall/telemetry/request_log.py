"""One line for each request, in a file of its own.

Lines are gathered and written a few times a second, in a thread: a request never waits for its
line. When the disk is so slow that too many lines wait, lines are dropped and counted, because the
log must not take the service down.
"""

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from seawall.clock import wall_s

FLUSH_INTERVAL_S = 0.25
WAITING_MAX = 200_000
FILE_MAX_BYTES = 64 * 1024 * 1024
FILES_KEPT = 4


class RequestLog:
    """Writes JSON lines. State: the lines that wait, and the open file."""

    def __init__(self, path: Path) -> None:
        self.dropped = 0
        self._path = path
        self._waiting: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._millisecond = -1
        self._second = -1
        self._second_text = ""
        self._text = ""

    def __repr__(self) -> str:
        return f"<RequestLog {len(self._waiting)} lines waiting, {self.dropped} dropped>"

    async def __aenter__(self) -> Self:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._task = asyncio.create_task(self._run(), name="request log")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        lines = self._take()
        try:
            self._write(lines)
        except OSError:
            self.dropped += len(lines)

    def add(self, line: str) -> None:
        """Queue one line, without its line end."""
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(line)
        else:
            self.dropped += 1

    def now(self) -> str:
        """Return the present moment in UTC, to the millisecond. What did not change is not worked out again."""
        millisecond = int(wall_s() * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            self._text = f"{self._second_text}{rest:03d}Z"
        return self._text

    def _take(self) -> list[str]:
        lines, self._waiting = self._waiting, []
        return lines

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            if self._waiting:
                lines = self._take()
                try:
                    await asyncio.to_thread(self._write, lines)
                except OSError:
                    self.dropped += len(lines)

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        text = ("\n".join(lines) + "\n").encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while text:
                text = text[os.write(descriptor, text) :]
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size > FILE_MAX_BYTES:
            for number in range(FILES_KEPT - 1, 0, -1):
                older = self._path.with_name(f"{self._path.name}.{number}")
                if older.exists():
                    older.rename(self._path.with_name(f"{self._path.name}.{number + 1}"))
            self._path.rename(self._path.with_name(f"{self._path.name}.1"))


def quoted(text: str) -> str:
    """Return text as JSON; most needs no more than quotes."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return json.dumps(text)
