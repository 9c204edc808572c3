"""The service as it is, on a directory that is gone afterwards: `seawall up` with its nodes and its PostgreSQL.

Nothing is imitated: it is the same command operators run, with settings from its environment, on free ports. Where
there are two cores or more the generator gets one for itself and the service the others, so that neither takes the
other's time and the figures are the service's.

The users of a drill are administrators, and all use one bucket: at present an account may use only the buckets it made,
and thousands of buckets would be a test of buckets. What a request costs is the same but for one comparison; the
service tells tenants apart by account, which administrators have as well.
"""

import asyncio
import json
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from seawall.access.accounts import KeyPair, new_access_key, new_secret_key
from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings, Endpoint, load_queries
from seawall.database.local_server import SUPERUSER, LocalServer
from seawall.drills.client import Caller, Signer, Target, body_of, object_key
from seawall.drills.generator import Busyness, Order, Pace, Progress, generate, keep_busy
from seawall.drills.load import GIVE_UP, Crowd, Kind, Load, Phase, Sort
from seawall.drills.outcomes import Summary
from seawall.errors import NotRunning

QUERIES = load_queries(__package__, "instance.sql")

START_S: Final = 90.0
STOP_S: Final = 60.0
KILLED_S: Final = 10.0
POLL_S: Final = 0.05

SETTINGS: Final[Mapping[str, str]] = {
    "SEAWALL_S3_PORT": "0",
    "SEAWALL_CONSOLE_PORT": "0",
    # The clients are gone by then, whatever they had under way.
    "SEAWALL_DRAIN_S": "2",
}

USERS_AT_ONCE: Final = 2000
"""How many accounts one statement makes, in some tenths of a second."""

USERS_PATIENCE_S: Final = 30.0

OBJECTS: Final = 200
OBJECT_BYTES: Final = 1024
FILLERS: Final = 4
FILL_TIMEOUT_S: Final = 30.0
FILL_PAUSE_S: Final = 0.5

EPOCH_S: Final = 1.0
"""Nodes forget whose keys are whose within half a second of new accounts, and should do so before a load begins."""

PROOF_S: Final = 5.0
PROOF_USERS: Final = 500
PROOF_DEADLINE_S: Final = 5.0
PROVED_SHARE: Final = 0.95
"""How much of what it was told to offer a generator must have offered: arrivals are random."""

CAPACITY_S: Final = 5.0


class InstanceFailed(RuntimeError):
    """The throwaway service did not start, or did not do what a drill needs of it."""


class Cores(NamedTuple):
    """Who runs where. None: there is only one core, and both share it."""

    service: frozenset[int] | None
    generator: int | None


def shared_out(cores: Iterable[int]) -> Cores:
    """Return the last core for the generator and the others for the service.

    >>> shared_out({0, 1, 2}).generator
    2
    """
    ranked = sorted(cores)
    if len(ranked) < 2:
        return Cores(None, None)
    return Cores(frozenset(ranked[:-1]), ranked[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A running service. `process` is its keeper; `cores` is who runs where.

    `database_dir` is the data directory of its PostgreSQL, where it is not the embedded one.
    """

    directory: Path
    process: subprocess.Popen[bytes]
    root: KeyPair
    s3_address: tuple[str, int]
    console_address: tuple[str, int]
    cores: Cores
    database_dir: Path | None = None

    @property
    def data_dir(self) -> Path:
        """Where it keeps everything."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """What it wrote to its standard error."""
        return self.directory / "seawall.log"

    def node_pids(self) -> list[int]:
        """Return the process ids of the nodes that run now."""
        return _node_pids(self.data_dir)

    def postgres_pid(self) -> int:
        """Return the process id of PostgreSQL's first process.

        Raises:
            NotRunning: there is none now.
        """
        pid = _postgres_pid(self.database_dir or self.data_dir)
        if pid is None:
            raise NotRunning("PostgreSQL is not running")
        return pid

    @property
    def service_database(self) -> Endpoint:
        """The database, as the service's own role; raises as `postgres_pid`."""
        endpoint = LocalServer.find(self.database_dir or self.data_dir)
        if endpoint is None:
            raise NotRunning("PostgreSQL is not running")
        return endpoint

    @property
    def superuser_database(self) -> Endpoint:
        """The same database, as its administrator; raises as `postgres_pid`."""
        endpoint = LocalServer.find(self.database_dir or self.data_dir, role=SUPERUSER)
        if endpoint is None:
            raise NotRunning("PostgreSQL is not running")
        return endpoint

    def target(self, bucket: str = "") -> Target:
        """Return where generators find it."""
        host, port = self.s3_address
        return Target(host=host, port=port, bucket=bucket)

    @property
    def root_keys(self) -> tuple[str, str]:
        """The root account's access key and secret."""
        return self.root.access_key, self.root.secret_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a load needs of an instance: users with keys, and a bucket with objects all of them may use."""

    instance: Instance
    bucket: str
    users: tuple[KeyPair, ...]
    objects: int
    object_bytes: int

    def order(self, load: Load | None = None, *, busyness: Busyness | None = None, ledger: Path | None = None) -> Order:
        """Return the order for a generator."""
        return Order(
            target=self.instance.target(self.bucket),
            users=tuple((pair.access_key, pair.secret_key) for pair in self.users),
            objects=self.objects,
            object_bytes=self.object_bytes,
            tag=secrets.token_hex(4),
            load=load,
            busyness=busyness,
            ledger=ledger,
            core=self.instance.cores.generator,
        )


# Its life.


@asynccontextmanager
async def running_instance(
    settings: Mapping[str, str] | None = None, *, database_dir: Path | None = None
) -> AsyncIterator[Instance]:
    """Run a throwaway service for the length of the block; `settings` are environment variables of its own.

    `database_dir` is where the PostgreSQL keeps its data that they name, if they name one.

    When the block ends, in whatever way, its processes and its directory are gone.

    Raises:
        InstanceFailed: it did not become ready. The message holds its last words.
    """
    root = KeyPair(access_key=new_access_key(), secret_key=new_secret_key())
    directory = new_directory()
    process = None
    try:
        cores = shared_out(os.sched_getaffinity(0))
        with pinned(cores.service):
            process = _launch(directory, root, settings or {})
        await _until_ready(directory, process)
        said = (directory / "seawall.banner").read_text()
        addresses = [(host, int(port)) for host, port in re.findall(r"http://([0-9.]+):([0-9]+)", said)]
        yield Instance(
            directory=directory,
            process=process,
            root=root,
            s3_address=addresses[0],
            console_address=addresses[1],
            cores=cores,
            database_dir=database_dir,
        )
    finally:
        try:
            if process is not None:
                await _stop(process, directory / "data")
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def new_directory() -> Path:
    """Make an empty directory. PostgreSQL may run as another user, who has to get in."""
    directory = Path(tempfile.mkdtemp(prefix="seawall-drill-"))
    directory.chmod(0o711)
    return directory


@contextmanager
def pinned(cores: frozenset[int] | None) -> Iterator[None]:
    """Let processes that are started in the block run on these cores only. Do not wait inside."""
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _launch(directory: Path, root: KeyPair, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEAWALL_")}
    with (directory / "seawall.log").open("ab") as log, (directory / "seawall.banner").open("ab") as banner:
        return subprocess.Popen(
            [sys.executable, "-m", "seawall", "up"],
            env={
                **kept,
                **SETTINGS,
                "SEAWALL_DATA_DIR": str(directory / "data"),
                "SEAWALL_ROOT_ACCESS_KEY": root.access_key,
                "SEAWALL_ROOT_SECRET_KEY": root.secret_key,
                **settings,
            },
            stdin=subprocess.DEVNULL,
            stdout=banner,
            stderr=log,
            # Ctrl-C is for the drill, which then stops the service in order.
            start_new_session=True,
        )


async def _until_ready(directory: Path, process: subprocess.Popen[bytes]) -> None:
    deadline_s = monotonic_s() + START_S
    while "Seawall is ready." not in (directory / "seawall.banner").read_text():
        code = process.poll()
        if code is not None or monotonic_s() > deadline_s:
            said = (directory / "seawall.log").read_text(errors="replace").strip()[-2000:]
            ended = "was not ready in time" if code is None else f"ended with exit code {code}"
            raise InstanceFailed(f"the throwaway service {ended}: {said or 'it said nothing'}")
        await asyncio.sleep(POLL_S)


async def _stop(process: subprocess.Popen[bytes], data_dir: Path) -> None:
    """Stop the service as Ctrl-C does; then end whatever is left by force, even if we are told to stop waiting."""
    with _handles(_processes_of(process, data_dir)) as left:
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            deadline_s = monotonic_s() + STOP_S
            while process.poll() is None and monotonic_s() < deadline_s:
                await asyncio.sleep(POLL_S)
        finally:
            if process.poll() is None:
                # Those it started since; and it first, or it would start others.
                with _handles(_processes_of(process, data_dir)) as younger:
                    process.kill()
                    process.wait()
                    _kill([*left, *younger])
            else:
                _kill(left)


def _processes_of(process: subprocess.Popen[bytes], data_dir: Path) -> set[int]:
    """Return the service's processes: the nodes and PostgreSQL outlive a keeper that was killed."""
    own = {process.pid} if process.poll() is None else set()
    postgres = _postgres_pid(data_dir)
    return with_descendants({*own, *_node_pids(data_dir), *([] if postgres is None else [postgres])}) - own


def with_descendants(pids: set[int]) -> set[int]:
    """Return processes and all they have started, that are still there."""
    found: set[int] = set()
    to_look_at = [*pids]
    while to_look_at:
        pid = to_look_at.pop()
        if pid not in found:
            found.add(pid)
            with suppress(OSError):
                to_look_at += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


@contextmanager
def _handles(pids: Iterable[int]) -> Iterator[list[int]]:
    """Hold on to processes: their numbers may be given to others when they have ended, these handles are not."""
    handles: list[int] = []
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
        yield handles
    finally:
        for handle in handles:
            os.close(handle)


def _kill(handles: Sequence[int]) -> None:
    """End processes, and see that they are gone."""
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    deadline_s = monotonic_s() + KILLED_S
    for handle in handles:
        # A handle can be read from when its process has ended.
        select.select([handle], [], [], max(0.0, deadline_s - monotonic_s()))


def _node_pids(data_dir: Path) -> list[int]:
    try:
        listed = [int(pid) for pid in json.loads((data_dir / "run" / "nodes.json").read_text())]
    except (OSError, ValueError):
        return []
    return [pid for pid in listed if _works_on(pid, data_dir)]


def _postgres_pid(data_dir: Path) -> int | None:
    try:
        pid = int((data_dir / "pg" / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if _works_on(pid, data_dir) else None


def _works_on(pid: int, data_dir: Path) -> bool:
    """Whether a process is one of ours, and not another that got its number: ours name the directory."""
    name = os.fsencode(data_dir)
    try:
        process = Path(f"/proc/{pid}")
        return name in (process / "cmdline").read_bytes() or name in (process / "environ").read_bytes()
    except OSError:
        return False


# What a load needs of it.


async def set_stage(
    instance: Instance, *, users: int, objects: int = OBJECTS, object_bytes: int = OBJECT_BYTES
) -> Stage:
    """Make users, a bucket, and objects in it, as many as asked for.

    Raises:
        InstanceFailed: the service did not store them.
    """
    bucket = f"drill-{secrets.token_hex(4)}"
    await fill(instance, bucket, objects=objects, object_bytes=object_bytes)
    pairs = await make_users(instance, users)
    await asyncio.sleep(EPOCH_S)
    return Stage(instance=instance, bucket=bucket, users=pairs, objects=objects, object_bytes=object_bytes)


async def make_users(instance: Instance, count: int) -> tuple[KeyPair, ...]:
    """Make that many administrators, each with a key, by a few statements as the database's administrator."""
    tag = secrets.token_hex(4)
    pairs = [
        KeyPair(access_key=f"SWDRILL{tag.upper()}{number:06d}", secret_key=secrets.token_urlsafe(30))
        for number in range(count)
    ]
    settings = DatabaseSettings(read_lanes=1, write_lanes=1, spare_connections=1, patience_s=USERS_PATIENCE_S)
    async with Database(instance.superuser_database, settings, application_name="seawall drill") as database:
        for start in range(0, count, USERS_AT_ONCE):
            some = pairs[start : start + USERS_AT_ONCE]
            names = [f"drill-{tag}-{start + number}" for number in range(len(some))]
            access_keys, secret_keys = [pair.access_key for pair in some], [pair.secret_key for pair in some]
            await database.fetch(QUERIES["add_users"], names, access_keys, secret_keys)
    return tuple(pairs)


async def fill(instance: Instance, bucket: str, *, objects: int, object_bytes: int) -> None:
    """Make a bucket and store objects in it; raises as `set_stage`."""
    target, numbers = instance.target(bucket), iter(range(objects))

    async def ask(caller: Caller, path: str, body: bytes) -> None:
        # Where a surge has just ended, those who were refused still come again: we wait as they do.
        deadline_s = monotonic_s() + FILL_TIMEOUT_S
        while True:
            answer = await caller.ask("PUT", path, body=body, timeout_s=FILL_TIMEOUT_S)
            if answer.status == 200:
                return
            if answer.status != 503 or monotonic_s() > deadline_s:
                raise InstanceFailed(f"the service did not store {path}: {answer.status} {answer.reason}")
            await asyncio.sleep(answer.retry_after_s or FILL_PAUSE_S)

    async def work() -> None:
        async with Caller(target, Signer(*instance.root_keys)) as caller:
            for number in numbers:
                key = object_key(number)
                await ask(caller, target.path(key), body_of(key, object_bytes))

    async with Caller(target, Signer(*instance.root_keys)) as caller:
        await ask(caller, target.path(), b"")
    async with asyncio.TaskGroup() as group:
        for _ in range(FILLERS):
            group.create_task(work())


# What it, and the generator, can do.


async def measure_capacity(stage: Stage, *, workers: int, kind: Kind = Kind.GET, seconds: float = CAPACITY_S) -> Pace:
    """Return how many requests a second the service serves when it is never idle and hardly anybody waits.

    `workers` should be a few more than what the bottleneck can do at once.
    """
    return await keep_busy(stage.order(busyness=Busyness(kind=kind, workers=workers, seconds=seconds)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the generator offered when told to offer so much, and how the service took it."""

    asked_per_s: float
    summary: Summary

    @property
    def offered_per_s(self) -> float:
        """How many requests it began in a second."""
        return self.summary.everybody.whole.begun_per_s

    @property
    def holds(self) -> bool:
        """Whether it offered what it was told to, on time."""
        return self.summary.effort.bottleneck is None and self.offered_per_s >= PROVED_SHARE * self.asked_per_s


async def prove_generator(
    stage: Stage,
    *,
    rate_per_s: float,
    seconds: float = PROOF_S,
    users: int = PROOF_USERS,
    hear: Callable[[Progress], None] = lambda _: None,
) -> Proof:
    """Let a generator offer so many requests a second that do not reach the bottleneck: signed ListBuckets."""
    crowd = Crowd(
        name="proof",
        phases=(Phase(rate_per_s=rate_per_s, seconds=seconds),),
        mix=(Sort(kind=Kind.BUCKETS),),
        think_s=users / rate_per_s,
        retry=GIVE_UP,
        deadline_s=PROOF_DEADLINE_S,
    )
    return Proof(asked_per_s=rate_per_s, summary=await generate(stage.order(Load(crowds=(crowd,))), hear=hear))
