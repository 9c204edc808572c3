"""Log events: a name and fields, one line each.

On a terminal they are meant for eyes, elsewhere they are JSON. A field named like a secret is
never written.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
SECRET_WORDS = ("secret", "password", "authorization", "token", "signature")


def set_up_logging(process: str, *, stream: TextIO | None = None, as_json: bool | None = None) -> None:
    """Send log events of this process to a stream; JSON unless it is a terminal."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    is_json = not target.isatty() if as_json is None else as_json
    handler.setFormatter(JsonFormatter(process) if is_json else EyeFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of an event, without those that must not be told."""
    return {
        name: value
        for name, value in vars(record).items()
        if name not in OWN_FIELDS and not any(word in name.lower() for word in SECRET_WORDS)
    }


def printable(text: str) -> str:
    """Return text for a terminal: whoever wrote a note or a statement must not move its cursor or set its title.

    >>> printable("a\\x1b[2Jb\\x9bc")
    'a?[2Jb?c'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t\xa0\u202f" else "?" for one in text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class EyeFormatter(logging.Formatter):
    """A line for people: the time, who, what, and the fields as name=value."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = printable(" ".join(f"{name}={value}" for name, value in fields_of(record).items())).replace("\n", " ")
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        line = f"{at} {self._process:<7} {level}{record.getMessage()} {fields}".rstrip()
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return line
