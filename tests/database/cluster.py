"""Run a real primary with real replicas, and do to them what bad days do.

Tests of balancing and failover need servers that lag, freeze, die and are promoted. The primary is a
`LocalServer` as the service runs it; replicas are copies of it, streaming, each with a directory and a
UNIX socket of its own, small enough that three fit beside the tests. Nothing is simulated: a pause is
SIGSTOP, a death is SIGKILL, of every process of a server.

Under `directory`:
    primary/            the first primary's, see `LocalServer`
    replica_0/ …        postgresql.conf, postgresql.log, and pg/ with the data and the socket
"""

import asyncio
import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.endpoint import Endpoint
from seawall.database.local_binaries import identity_of, reachable_binaries, server_user
from seawall.database.local_configuration import as_file, configuration
from seawall.database.local_server import PORT, LocalServer, LocalServerSettings

MIB = 1024 * 1024

MEMORY_BYTES: Final = 64 * MIB
"""What each server is told it has: 16 MiB of buffers."""

WAIT_S: Final = 30.0
"""The bound of every wait: nothing here takes more than a few seconds, unless it never ends."""

QUIT_S: Final = 8.0
"""How long a replica may take to stop in order, at the end. PostgreSQL kills its own after 5 s."""

POLL_S: Final = 0.02

CONFIGURATION: Final[Mapping[str, str]] = {
    "wal_level": "replica",
    "hot_standby": "on",
    "max_wal_senders": "10",
    "max_connections": "60",
    # Processes are killed, the machine is not: what was written is in the page cache. Commits still wait for replicas.
    "fsync": "off",
    "full_page_writes": "off",
    # Instead of slots, which a promoted replica would not have: who was away for a while finds what it missed.
    "wal_keep_size": "512MB",
    # A replica asks for its primary anew this often: after a restart, and after a promotion.
    "wal_retrieve_retry_interval": "100ms",
    # A replica never cancels what tests read there.
    "max_standby_streaming_delay": "-1",
    "autovacuum": "off",
    # In the data directory, where what a killed server leaves behind goes with it.
    "dynamic_shared_memory_type": "mmap",
}

BROKEN: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver raises when a server dies, starts or changes its role.

The last one when a server's farewell arrived between two statements: the second is then never sent.
"""

IPC_RMID: Final = 0

LSN: Final = re.compile(r"([0-9A-F]+)/([0-9A-F]+)")


class Cluster:
    """A primary and its streaming replicas, for the length of a block.

    Args:
        directory: an empty one that PostgreSQL's user may enter, with a short name (its socket lies in it).
        replicas: how many.
        synchronous: whether a commit is acknowledged only once replicas have it on disk.
        quorum: how many replicas that takes; None: all. With fewer, whoever promotes must take the replica
            that is furthest (`furthest_replica`), or acknowledged writes are lost.
        extra: PostgreSQL's configuration of every member, by name, over what is chosen here.

    When the block cannot be entered, and when it ends, however it ends, no process of it is left.
    """

    def __init__(
        self,
        directory: Path,
        replicas: int = 2,
        *,
        synchronous: bool = False,
        quorum: int | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._quorum = (replicas if quorum is None else quorum) if synchronous else 0
        self._configuration = {**CONFIGURATION, **(extra or {})}
        self._server = LocalServer(
            LocalServerSettings(data_dir=directory / "primary", memory_bytes=MEMORY_BYTES, extra=self._configuration)
        )
        self._owner = server_user()
        self._binaries = Path()
        self._replicas = [_Replica(name=f"replica_{i}", directory=directory / f"replica_{i}") for i in range(replicas)]
        self._promoted: _Replica | None = None
        self._primary_is_dead = False

    def __repr__(self) -> str:
        primary = self._promoted.name if self._promoted else "primary"
        states = ", ".join(f"{one.name} {one.state}" for one in self._replicas)
        dead = " (dead)" if self._primary_is_dead else ""
        return f"<Cluster {self._directory}, led by {primary}{dead}, {states}>"

    async def __aenter__(self) -> Self:
        """Start all members; return when every replica streams and, if so chosen, commits wait for it."""
        try:
            await self._server.__aenter__()
            self._binaries = await asyncio.to_thread(reachable_binaries, None, self._owner)
            async with asyncio.TaskGroup() as group:
                for replica in self._replicas:
                    group.create_task(self._build(replica))
            # Only now: before there are replicas, not even the first role could be made.
            if self._quorum:
                names = self._synchronous_standby_names(None)
                await ask(self.superusers[0], f"alter system set synchronous_standby_names = '{names}'")
                await ask(self.superusers[0], "select pg_reload_conf()")
            await self._wait_streaming(self._replicas)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The members as the service's role: the first primary, replica 0, 1, … Roles change, places do not."""
        return tuple(replace(self._server.service, host=str(directory)) for directory in self._socket_directories)

    @property
    def superusers(self) -> tuple[Endpoint, ...]:
        """The same members as their administrator."""
        return tuple(replace(self._server.superuser, host=str(directory)) for directory in self._socket_directories)

    @property
    def primary(self) -> Endpoint:
        """The member that takes writes, or took them until it was killed, as the service's role."""
        return self.endpoints[self._primary_place]

    @property
    def primary_superuser(self) -> Endpoint:
        """The same as its administrator."""
        return self.superusers[self._primary_place]

    def replica(self, i: int) -> Endpoint:
        """Replica `i` as the service's role, even after it was promoted."""
        return self.endpoints[1 + i]

    async def pause(self, i: int) -> None:
        """Freeze every process of a replica: connections stay open, and nothing answers.

        What the primary sends meanwhile waits in the kernel's buffers, even after the primary's death: to leave
        a replica truly behind, kill it.
        """
        replica = self._replicas[i]
        replica.is_paused = True
        await _until(lambda: _froze(replica.data), f"{replica.name} does not stop")

    async def resume(self, i: int) -> None:
        """Let a frozen replica go on; it follows the primary there is now."""
        replica = self._replicas[i]
        _send(replica.data, signal.SIGCONT)
        replica.is_paused = False
        await self._follow(replica)

    async def lag(self, i: int, s: float) -> None:
        """Make a replica show commits this much later than they were made; 0: as soon as it can."""
        replica = self._replicas[i]
        replica.lag_s = s
        self._configure(replica)
        _send_first(replica, signal.SIGHUP)
        wanted = round(s * 1000)

        async def is_set() -> bool:
            shown = await ask(
                self.superusers[1 + i],
                "select setting::int from pg_settings where name = 'recovery_min_apply_delay'",
            )
            return shown == wanted

        await _until_answered(is_set, f"{replica.name} does not take its lag")

    async def kill(self, i: int) -> None:
        """Kill every process of a replica at once; of a promoted one too."""
        replica = self._replicas[i]
        self._primary_is_dead |= replica is self._promoted
        await _kill_all(replica.data)
        replica.forget_process()

    async def restart(self, i: int) -> None:
        """Start a replica again, killing it first if need be; it answers, and follows the primary there is now."""
        await self.kill(i)
        replica = self._replicas[i]
        await self._start(replica)
        self._primary_is_dead &= replica is not self._promoted
        await self._follow(replica)

    async def kill_primary(self) -> None:
        """Kill every process of the member that takes writes. Acknowledged or not, nothing more is sent."""
        self._primary_is_dead = True
        await _kill_all(self._primary_data)
        if self._promoted is not None:
            self._promoted.forget_process()

    async def promote(self, i: int) -> None:
        """Make a replica the primary; the others follow it, anew from a copy if they were further.

        Returns when it accepts writes: with synchronous replication, when the others acknowledge them. A
        replica that is killed or paused follows once it is back.

        Raises:
            ValueError: the primary still lives. Two would take writes.
            TimeoutError: it takes none, as when every replica must acknowledge and one is killed or paused.
        """
        if not self._primary_is_dead:
            raise ValueError("kill the primary first")
        chosen = self._replicas[i]
        promoted = await ask(self.superusers[1 + i], "select pg_promote(true, $1)", int(WAIT_S))
        if promoted is not True:
            raise TimeoutError(f"{chosen.name} was not promoted: {chosen.last_words()}")
        self._promoted, self._primary_is_dead = chosen, False
        others = [one for one in self._replicas if one is not chosen and one.state == "running"]
        for other in others:
            await self._follow(other)
        await self._wait_streaming(others)
        # As the balancer will find it: by writing. An empty transaction would wait for nobody.
        await ask(self.primary_superuser, "select pg_logical_emit_message(true, 'cluster', 'promoted')")

    async def heal(self) -> None:
        """Undo every pause, death and lag of replicas, and wait until they have caught up."""
        for i, replica in enumerate(self._replicas):
            if replica is self._promoted:
                continue
            if replica.state == "killed":
                await self.restart(i)
            if replica.state == "paused":
                await self.resume(i)
            if replica.lag_s:
                await self.lag(i, 0)
        await self._wait_streaming([one for one in self._replicas if one is not self._promoted])
        await self.wait_caught_up()

    async def furthest_replica(self) -> int:
        """Return the running replica that has received most: the one to promote."""
        running = [i for i, one in enumerate(self._replicas) if one.state == "running" and one is not self._promoted]
        received = {i: await self._received(i) for i in running}
        return max(running, key=received.__getitem__)

    async def wait_caught_up(self) -> None:
        """Wait until every running replica shows all that is on the primary's disk now."""
        target = _position(await ask(self.primary_superuser, "select pg_current_wal_flush_lsn()::text"))
        for i, replica in enumerate(self._replicas):
            if replica.state != "running" or replica is self._promoted:
                continue

            async def shows_it(superuser: Endpoint = self.superusers[1 + i]) -> bool:
                return _position(await ask(superuser, "select pg_last_wal_replay_lsn()::text")) >= target

            await _until_answered(shows_it, f"{replica.name} does not catch up: {replica.last_words()}")

    @property
    def _socket_directories(self) -> list[Path]:
        return [Path(self._server.service.host), *(one.data for one in self._replicas)]

    @property
    def _primary_place(self) -> int:
        return 1 + self._replicas.index(self._promoted) if self._promoted else 0

    @property
    def _primary_data(self) -> Path:
        return self._promoted.data if self._promoted else self._directory / "primary" / "pg"

    def _synchronous_standby_names(self, leader: "_Replica | None") -> str:
        others = [one.name for one in self._replicas if one is not leader]
        quorum = min(self._quorum, len(others))
        return f"ANY {quorum} ({', '.join(others)})" if quorum else ""

    async def _build(self, replica: "_Replica") -> None:
        """Copy the primary as it runs, and start the copy as its replica."""
        shutil.rmtree(replica.directory, ignore_errors=True)
        replica.directory.mkdir()
        replica.directory.chmod(0o711)
        replica.data.mkdir(mode=0o700)
        os.chown(replica.data, self._owner.pw_uid, self._owner.pw_gid)
        source = self.primary_superuser
        with replica.log.open("ab") as log:
            copying = subprocess.Popen(
                [
                    *(str(self._binaries / "pg_basebackup"), "--no-password", "--no-sync", "--checkpoint=fast"),
                    *(f"--pgdata={replica.data}", f"--host={source.host}", f"--port={source.port}"),
                    f"--username={source.user}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"LC_ALL": "C", "PATH": os.environ["PATH"], "PGPASSWORD": source.password},
                start_new_session=True,
                **identity_of(self._owner),
            )
            try:
                await _until(lambda: copying.poll() is not None, f"copying to {replica.name} does not end")
            finally:
                copying.kill()
                copying.wait()
        if copying.returncode != 0:
            raise RuntimeError(f"pg_basebackup failed: {replica.last_words()}")
        # What the primary was told by `alter system` is not for its replicas.
        (replica.data / "postgresql.auto.conf").write_text("")
        (replica.data / "standby.signal").touch()
        replica.follows = self._promoted
        await self._start(replica)

    def _configure(self, replica: "_Replica") -> None:
        """Write a replica's configuration; it holds a password, so only the server's user may read it."""
        leader = self.superusers[1 + self._replicas.index(replica.follows) if replica.follows else 0]
        chosen = {
            **configuration(MEMORY_BYTES, 1),
            **self._configuration,
            "cluster_name": replica.name,
            "recovery_min_apply_delay": f"{round(replica.lag_s * 1000)}ms",
            "primary_conninfo": (
                f"host={leader.host} port={leader.port} user={leader.user} password={leader.password} "
                f"application_name={replica.name}"
            ),
            # Of no effect before a promotion, and then at once: there is no moment in which writes wait for nobody.
            "synchronous_standby_names": self._synchronous_standby_names(replica),
        }
        incoming = replica.configuration.with_suffix(".incoming")
        incoming.touch(mode=0o600)
        os.chown(incoming, self._owner.pw_uid, self._owner.pw_gid)
        incoming.write_text(as_file(chosen))
        incoming.rename(replica.configuration)

    async def _start(self, replica: "_Replica") -> None:
        """Start a replica's server and wait until it answers."""
        self._configure(replica)
        # A copy brings the primary's note with it, and a killed server's names a number that may be somebody
        # else's by now. We have seen that nobody works in that directory.
        for note in ("postmaster.pid", f".s.PGSQL.{PORT}.lock"):
            (replica.data / note).unlink(missing_ok=True)
        with replica.log.open("ab") as log:
            process = replica.process = subprocess.Popen(
                [
                    *(str(self._binaries / "postgres"), "-D", str(replica.data)),
                    *("-c", f"config_file={replica.configuration}", "-k", str(replica.data), "-p", str(PORT)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
                start_new_session=True,
                **identity_of(self._owner),
            )
        superuser = self.superusers[1 + self._replicas.index(replica)]

        async def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{replica.name} did not start: {replica.last_words()}")
            return await ask(superuser, "select true") is True

        await _until_answered(answers, f"{replica.name} does not answer")

    async def _follow(self, replica: "_Replica") -> None:
        """Make a running replica stream from the primary there is now, if it follows another."""
        if replica.follows is self._promoted or replica is self._promoted:
            return
        if await self._has_what_the_primary_never_had(replica):
            await self.kill(self._replicas.index(replica))
            await self._build(replica)
            return
        replica.follows = self._promoted
        self._configure(replica)
        _send_first(replica, signal.SIGHUP)

    async def _has_what_the_primary_never_had(self, replica: "_Replica") -> bool:
        """Return whether a replica received more than the promoted one had when it was promoted."""
        histories = await ask(
            self.primary_superuser,
            "select pg_read_file('pg_wal/' || max(name)) from pg_ls_waldir() where name like '%.history'",
        )
        assert isinstance(histories, str)
        forked_at = [line.split("\t")[1] for line in histories.splitlines() if line.strip()][-1]
        return await self._received(self._replicas.index(replica)) > _position(forked_at)

    async def _received(self, i: int) -> int:
        return _position(
            await ask(
                self.superusers[1 + i],
                "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text",
            )
        )

    async def _wait_streaming(self, replicas: "list[_Replica]") -> None:
        """Wait until the primary streams to all of these, and commits wait for them if so chosen."""
        names = [one.name for one in replicas]
        condition = "state = 'streaming'" + (" and sync_state in ('sync', 'quorum')" if self._quorum else "")

        async def all_stream() -> bool:
            count = await ask(
                self.primary_superuser,
                f"select count(*) from pg_stat_replication where application_name = any($1::text[]) and {condition}",
                names,
            )
            return count == len(names)

        await _until_answered(all_stream, f"{names} do not all stream")

    async def _end(self) -> None:
        """Stop the replicas, then the first primary, which would wait for them. Signals come before any wait."""
        places = [one.data for one in self._replicas]
        for place in places:
            _send(place, signal.SIGQUIT)
        # A frozen process could not stop; of the primary, a test may have frozen one too.
        for place in (*places, self._directory / "primary" / "pg"):
            _send(place, signal.SIGCONT)
        try:
            with suppress(TimeoutError):
                await _until(lambda: not any(map(processes_of, places)), "replicas do not stop", within_s=QUIT_S)
            for replica in self._replicas:
                await _kill_all(replica.data)
                replica.forget_process()
        finally:
            await self._server.__aexit__(None, None, None)
            for place in (*places, self._directory / "primary" / "pg"):
                _release_memory(place)


@dataclass(slots=True, kw_only=True, eq=False)
class _Replica:
    """What is known of one replica. `follows` is the replica it streams from; None: the first primary."""

    name: str
    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    follows: "_Replica | None" = field(default=None, repr=False)
    lag_s: float = 0.0
    is_paused: bool = False

    @property
    def data(self) -> Path:
        return self.directory / "pg"

    @property
    def configuration(self) -> Path:
        return self.directory / "postgresql.conf"

    @property
    def log(self) -> Path:
        return self.directory / "postgresql.log"

    @property
    def state(self) -> str:
        if self.process is None or self.process.poll() is not None:
            return "killed"
        return "paused" if self.is_paused else "running"

    def last_words(self) -> str:
        return "; ".join(self.log.read_text(errors="replace").splitlines()[-3:])

    def forget_process(self) -> None:
        """Reap a process that was killed."""
        self.is_paused = False
        if self.process is not None:
            self.process.wait(WAIT_S)
            self.process = None


async def ask(endpoint: Endpoint, statement: str, *arguments: object, within_s: float = WAIT_S) -> object:
    """Return the first value of one statement's first row, over a connection of its own.

    Raises:
        TimeoutError: no answer in time; the connection is gone, the statement may still run.
    """
    async with asyncio.timeout(within_s):
        connection = await asyncpg.connect(**endpoint.connect_arguments())
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            connection.terminate()


def processes_of(data: Path) -> list[int]:
    """Return the PostgreSQL processes that work in this data directory, the first one first."""
    place = data.resolve()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if (entry / "comm").read_text() == "postgres\n" and (entry / "cwd").readlink() == place:
                    found.append(int(entry.name))
    with suppress(OSError, ValueError, IndexError):
        first = int((data / "postmaster.pid").read_text().splitlines()[0])
        found.sort(key=lambda pid: (pid != first, pid))
    return found


def _send(data: Path, number: signal.Signals) -> None:
    for pid in processes_of(data):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _send_first(replica: _Replica, number: signal.Signals) -> None:
    if replica.process is not None:
        replica.process.send_signal(number)


def _froze(data: Path) -> bool:
    """Tell all to stop, the first one first, so that it makes no more; return whether all have."""
    _send(data, signal.SIGSTOP)
    return all(_process_state(pid) in "TZ" for pid in processes_of(data))


def _process_state(pid: int) -> str:
    """Return the letter `proc(5)` has for it; a process that is gone counts as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


async def _kill_all(data: Path) -> None:
    """Kill until nobody is left: a dying first process may just have made another."""

    def all_gone() -> bool:
        _send(data, signal.SIGKILL)
        return not processes_of(data)

    await _until(all_gone, f"processes in {data} do not die")


def _release_memory(data: Path) -> None:
    """Give back the shared memory a killed server left in the kernel; one that stopped in order left none."""
    with suppress(OSError, IndexError, ValueError):
        number = int((data / "postmaster.pid").read_text().splitlines()[6].split()[1])
        ctypes.CDLL(None).shmctl(number, IPC_RMID, None)


async def _until(condition: Callable[[], bool], complaint: str, *, within_s: float = WAIT_S) -> None:
    deadline_s = monotonic_s() + within_s
    while not condition():
        if monotonic_s() > deadline_s:
            raise TimeoutError(complaint)
        await asyncio.sleep(POLL_S)


async def _until_answered(condition: Callable[[], Awaitable[bool]], complaint: str) -> None:
    """Wait for something a server must say; one that is starting or changing its role is asked again."""
    deadline_s = monotonic_s() + WAIT_S
    trouble: Exception | None = None
    while monotonic_s() < deadline_s:
        try:
            if await condition():
                return
        except BROKEN as error:
            trouble = error
        await asyncio.sleep(POLL_S)
    raise TimeoutError(complaint) from trouble


def _position(shown: object) -> int:
    """Return a place in the log as a number; nothing shown: before everything."""
    if shown is None:
        return 0
    found = LSN.fullmatch(str(shown))
    assert found is not None
    return int(found[1], 16) << 32 | int(found[2], 16)
