"""What tests of the running service do again and again: start it, ask it, look into it, stop it."""

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from mypy_boto3_s3 import S3Client

BUDGET = os.environ.get("SEAWALL_TEST_BUDGET", "")
BIN = Path(sys.executable).parent
START_S = 60.0
STOP_S = 60.0
KIB = 1024
MIB = 1024 * KIB

# What else than events the service says: to whoever stops it.
SENTENCES = ("Stopping: ",)

_numbers = itertools.count(1)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """An account's access key and its secret."""

    access_key: str
    secret_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An account made for a test."""

    name: str
    keys: Keys


ROOT_KEYS = Keys(access_key="SWTESTROOT", secret_key="a secret of nobody but these tests".replace(" ", "-"))


def budgeted(*, short: Value, usual: Value, long: Value | None = None) -> Value:
    """Return what the budget of this run allows."""
    if BUDGET == "short":
        return short
    return long if BUDGET == "long" and long is not None else usual


def need(program: str) -> str:
    """Return the path of a program; without it the test is skipped aloud, but never where `CI=true`."""
    path = shutil.which(program, path=os.pathsep.join([str(BIN), os.environ.get("PATH", "")]))
    if path is None and os.environ.get("CI") == "true":
        pytest.fail(f"{program} is required here, and not installed")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def wait_until(condition: Callable[[], Value], *, within_s: float, what: str, every_s: float = 0.05) -> Value:
    """Return the first answer that is true."""
    deadline_s = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what}"
        time.sleep(every_s)
    return answer


def pattern(size_bytes: int, *, seed: int = 0) -> bytes:
    """Return bytes that say where they belong: no two windows of them are equal soon."""
    block = b"".join((seed * 1_000_003 + number).to_bytes(8, "big") for number in range(min(size_bytes, MIB) // 8 + 1))
    return (block * (size_bytes // len(block) + 1))[:size_bytes]


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment in which nobody has chosen anything."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SEAWALL_", "AWS_", "RCLONE_"))}
    return {**kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}


@dataclass(slots=True)
class RunningService:
    """A `seawall up` of our own. State: its process, and the clients that were made for it."""

    data_dir: Path
    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    root: Keys = ROOT_KEYS
    process: subprocess.Popen[bytes] | None = None
    endpoint: str = ""
    console: str = ""
    clients: dict[str, S3Client] = field(default_factory=dict)

    # Its life.

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        said_before = self.banner_path.stat().st_size if self.banner_path.exists() else 0
        self.launch()
        wait_until(lambda: self._is_up(said_before), within_s=START_S, what="the service is ready")
        said = self.banner_path.read_text()[said_before:]
        self.endpoint, self.console = re.findall(r"http://[0-9.]+:[0-9]+", said)[:2]

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and wait for nothing."""
        with self.log_path.open("ab") as log, self.banner_path.open("ab") as banner:
            self.process = subprocess.Popen(
                [BIN / "seawall", "up", "--s3-port", _port(self.endpoint), "--console-port", _port(self.console)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=banner,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def stop(self) -> int:
        """Stop it as Ctrl-C does; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(STOP_S)
        self.process = None
        return code

    def close(self) -> None:
        """Leave nothing behind, whatever a test did."""
        for client in self.clients.values():
            client.close()
        self.clients.clear()
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill_all()

    def kill_all(self) -> None:
        """End every process of this service by force."""
        assert self.process is not None
        pids = [*self.node_pids(), *self.postgres_pids()]
        self.process.kill()
        self.process.wait()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # What it says.

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command for this service."""
        return {
            **clean_environment(self.home),
            "SEAWALL_DATA_DIR": str(self.data_dir),
            "SEAWALL_ROOT_ACCESS_KEY": self.root.access_key,
            "SEAWALL_ROOT_SECRET_KEY": self.root.secret_key,
            **self.settings,
        }

    def command(self, *words: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a `seawall` command for this service, and expect this exit code (None: any)."""
        done = subprocess.run(
            [BIN / "seawall", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert expect is None or done.returncode == expect, f"seawall {' '.join(words)}: {done}"
        return done

    def ask(self, *words: str, expect: int = 0) -> Any:
        """Return what a command answers to `--json`."""
        return json.loads(self.command(*words, "--json", expect=expect).stdout)

    @property
    def log_path(self) -> Path:
        """What the service wrote to its standard error."""
        return self.home / "seawall.log"

    @property
    def banner_path(self) -> Path:
        """What the service wrote to its standard output, for whoever started it."""
        return self.home / "seawall.banner"

    def events(self) -> list[dict[str, Any]]:
        """Return the log's events; fails where a line is neither an event nor a sentence, or nobody foresaw it."""
        text = self.log_path.read_text()
        assert "Traceback" not in text, text
        lines = [line for line in text.splitlines() if not line.startswith(SENTENCES)]
        strange = [line for line in lines if not line.startswith('{"at": ')]
        assert strange == [], "nobody can read these lines of the log"
        return [json.loads(line) for line in lines]

    def troubles(self) -> list[dict[str, Any]]:
        """Return the events that are worse than a warning."""
        return [event for event in self.events() if event["level"] not in {"info", "warning"}]

    def health(self, path: str) -> tuple[int, bytes]:
        """Ask the console's port; status 0 where nobody answers."""
        place = urlsplit(self.console)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        return self.health("/readyz")[0] == 200

    # Its processes.

    def node_pids(self) -> list[int]:
        """Return the process ids of the nodes."""
        try:
            return [int(pid) for pid in json.loads((self.data_dir / "run" / "nodes.json").read_text())]
        except (OSError, ValueError):
            return []

    def postgres_pids(self) -> list[int]:
        """Return the process ids of the embedded PostgreSQL, its first process first."""
        try:
            first = int((self.data_dir / "pg" / "postmaster.pid").read_text().split()[0])
            children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        except (OSError, ValueError, IndexError):
            return []
        return [first, *map(int, children)]

    # Speaking S3 to it.

    @property
    def address(self) -> tuple[str, int]:
        """Where the S3 door listens."""
        place = urlsplit(self.endpoint)
        return place.hostname or "", place.port or 0

    def s3(self, keys: Keys | None = None, *, retries: int = 0, **choices: Any) -> S3Client:
        """Return a boto3 client, the same one for the same choices; it is closed with the service."""
        keys = keys or self.root
        name = f"{self.endpoint} {keys} {retries} {choices}"
        if name in self.clients:
            return self.clients[name]
        choices = {"s3": {"addressing_style": "path"}, **choices}
        client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            config=Config(
                signature_version="s3v4",
                retries={"total_max_attempts": retries + 1, "mode": "standard"},
                max_pool_connections=32,
                **choices,
            ),
        )
        self.clients[name] = client
        return client

    def new_bucket(self, keys: Keys | None = None) -> str:
        """Make a bucket nobody else uses."""
        name = f"bucket-{next(_numbers)}"
        self.s3(keys).create_bucket(Bucket=name)
        return name

    def new_user(self, *options: str) -> User:
        """Make an account nobody else uses."""
        name = f"user-{next(_numbers)}"
        return User(name=name, keys=Keys(**self.ask("user", "add", name, *options)))

    # Inside.

    def _is_up(self, said_before: int) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"seawall up gave up: {self.log_path.read_text()}"
        return "Seawall is ready." in self.banner_path.read_text()[said_before:]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (OSError, IndexError):
        return False


@contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """Hold processes still for the length of the block."""
    held = [*pids]
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in held:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def keys_in(client: S3Client, bucket: str) -> dict[str, str]:
    """Return the ETag of every object in a bucket, by its key."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}


def files_in(directory: Path) -> dict[str, bytes]:
    """Return the content of every file below a directory, by its path there."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _port(url: str) -> str:
    """Return the port a service had before, so that clients find it again; any free one at first."""
    return str(urlsplit(url).port or 0)
