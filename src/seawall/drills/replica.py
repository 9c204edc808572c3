"""A streaming replica of a local server, for drills in which one lags or dies.

A copy of the primary as it runs, in a directory and at a UNIX socket of its own; it follows as fast as it can.

Under `directory`: postgresql.conf (with a password: only the server's user may read it), postgresql.log, pg/.
"""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from seawall.clock import monotonic_s
from seawall.database import Endpoint
from seawall.database.local_binaries import identity_of, major_version, reachable_binaries, server_user
from seawall.database.local_configuration import as_file, configuration
from seawall.database.session import Session, open_session
from seawall.drills.undo import POLL_S, see_through, until
from seawall.errors import DatabaseDown, SeawallError

MIB: Final = 1024 * 1024
MEMORY_BYTES: Final = 256 * MIB
"""What it is told it has: 64 MiB of buffers. It serves a drill, not a crowd."""

COPIED_WITHIN_S: Final = 60.0
ANSWERS_WITHIN_S: Final = 60.0
STOPPED_WITHIN_S: Final = 10.0
ASK_S: Final = 5.0

STREAMS: Final = "select exists (select from pg_stat_replication where application_name = $1 and state = 'streaming')"
REPLAYED: Final = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A running replica: how to reach it, as its administrator and as the service, and its first process."""

    superuser: Endpoint
    service: Endpoint
    pid: int


@asynccontextmanager
async def streaming_replica(
    *, superuser: Endpoint, service: Endpoint, directory: Path, binaries: Path | None = None, name: str = "replica"
) -> AsyncIterator[Replica]:
    """Have a replica for the length of the block: it has caught up with the primary, and is gone afterwards.

    Args:
        superuser: the primary, as its administrator.
        service: the primary, as the service's role.
        directory: an empty one that PostgreSQL's user may enter, with a short name (the socket lies in it).
        binaries: a `bin` directory to use instead of the embedded one; of the primary's major version.
        name: what the primary calls it.

    Raises:
        Misconfigured: it cannot run here.
        DatabaseDown: it did not start.
        TimeoutError: it did not start in time.
    """
    owner = server_user()
    programs = await asyncio.to_thread(reachable_binaries, binaries, owner)
    major = await asyncio.to_thread(major_version, programs)
    data, configured, log = directory / "pg", directory / "postgresql.conf", directory / "postgresql.log"
    _make_for(owner, data)
    environment = {"LC_ALL": "C", "PATH": os.environ.get("PATH", "")}

    def start(*command: str, **more: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as said:
            return subprocess.Popen(  # noqa: S603 - our own binaries, our own arguments
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                env={**environment, **more},
                start_new_session=True,
                **identity_of(owner),
            )

    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        copying = start(
            *(str(programs / "pg_basebackup"), "--no-password", "--no-sync", "--checkpoint=fast", f"--pgdata={data}"),
            *(f"--host={superuser.host}", f"--port={superuser.port}", f"--username={superuser.user}"),
            PGPASSWORD=superuser.password,
        )
        try:
            code = await _exit_of(copying, within_s=COPIED_WITHIN_S)
        finally:
            await see_through(_stop(copying))
        if code != 0:
            raise DatabaseDown(f"The primary could not be copied: {_last_words(log)}")

        primary = {"host": superuser.host, "port": superuser.port, "user": superuser.user}
        conninfo = " ".join(f"{key}='{value}'" for key, value in primary.items())
        chosen = {
            **configuration(MEMORY_BYTES, 1, major=major),
            "cluster_name": name,
            "primary_conninfo": f"{conninfo} password='{superuser.password}' application_name='{name}'",
            "wal_retrieve_retry_interval": "200ms",
        }
        _configure(owner, data, configured, chosen)
        process = start(
            *(str(programs / "postgres"), "-D", str(data), "-c", f"config_file={configured}"),
            *("-k", str(data), "-p", str(superuser.port)),
        )
        stack.push_async_callback(_stop_whatever_happens, process)
        itself = replace(superuser, host=str(data))
        follower = await _answering(itself, process, log)
        leader = await open_session(superuser, application_name=f"drill {name}")
        try:
            await _caught_up(leader, follower, name)
        finally:
            follower.drop()
            leader.drop()
        yield Replica(superuser=itself, service=replace(service, host=str(data)), pid=process.pid)


@asynccontextmanager
async def lagging(replica: Endpoint, *, by_s: float) -> AsyncIterator[None]:
    """Have a replica show commits this much later than they were made, for the length of the block.

    Afterwards it shows what it has received. `replica` is its administrator.
    """
    session = await open_session(replica, application_name="drill replica lag")
    try:
        delay = f"alter system set recovery_min_apply_delay = '{round(by_s * 1000)}ms'"
        await see_through(session.run(delay, within_s=ASK_S))
        await session.run("select pg_reload_conf()", within_s=ASK_S)
        yield
    finally:
        await see_through(_catch_up(replica, session))


async def _catch_up(replica: Endpoint, session: Session) -> None:
    """Take the delay back, and wait until all that had been received is shown."""
    try:
        if session.is_lost:
            session = await open_session(replica, application_name="drill replica lag")
        await session.run("alter system reset recovery_min_apply_delay", within_s=ASK_S)
        await session.run("select pg_reload_conf()", within_s=ASK_S)
        received = await session.value("select pg_last_wal_receive_lsn()::text", within_s=ASK_S)

        async def shows_it() -> bool:
            return bool(await session.value(REPLAYED, received, within_s=ASK_S))

        await until(shows_it, within_s=ANSWERS_WITHIN_S, what="the replica shows what it has received")
    finally:
        session.drop()


async def _stop_whatever_happens(process: subprocess.Popen[bytes]) -> None:
    await see_through(_stop(process))


def _make_for(owner: pwd.struct_passwd, data: Path) -> None:
    data.parent.chmod(0o711)
    data.mkdir(mode=0o700)
    os.chown(data, owner.pw_uid, owner.pw_gid)


def _configure(owner: pwd.struct_passwd, data: Path, file: Path, chosen: Mapping[str, str]) -> None:
    """Make a copy of the primary a replica of it."""
    # It brings along the primary's notes of its process, and what that was told by `alter system`.
    for note in (data / "postmaster.pid", *data.glob(".s.PGSQL.*.lock")):
        note.unlink(missing_ok=True)
    (data / "postgresql.auto.conf").write_text("")
    (data / "standby.signal").touch()
    file.touch(mode=0o600)
    os.chown(file, owner.pw_uid, owner.pw_gid)
    file.write_text(as_file(chosen))


async def _answering(superuser: Endpoint, process: subprocess.Popen[bytes], log: Path) -> Session:
    deadline_s = monotonic_s() + ANSWERS_WITHIN_S
    while True:
        if process.poll() is not None:
            raise DatabaseDown(f"The replica did not start: {_last_words(log)}")
        try:
            return await open_session(superuser, application_name="drill replica")
        except SeawallError:
            if monotonic_s() > deadline_s:
                raise
        await asyncio.sleep(POLL_S)


async def _caught_up(leader: Session, follower: Session, name: str) -> None:
    written = await leader.value("select pg_current_wal_flush_lsn()::text", within_s=ASK_S)

    async def follows() -> bool:
        streams = await leader.value(STREAMS, name, within_s=ASK_S)
        return bool(streams and await follower.value(REPLAYED, written, within_s=ASK_S))

    await until(follows, within_s=ANSWERS_WITHIN_S, what=f"{name} follows its primary")


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a program of PostgreSQL's: fast (a server disconnects its clients), then at once, then by force."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        if process.poll() is None:
            process.send_signal(number)
            with suppress(TimeoutError):
                await _exit_of(process, within_s=STOPPED_WITHIN_S)
    if process.poll() is None:
        process.kill()
    process.wait(STOPPED_WITHIN_S)


async def _exit_of(process: subprocess.Popen[bytes], *, within_s: float) -> int:
    async def has_ended() -> bool:
        return process.poll() is not None

    await until(has_ended, within_s=within_s, what=f"process {process.pid} ends")
    return process.wait()


def _last_words(log: Path) -> str:
    return "; ".join(log.read_text(errors="replace").splitlines()[-2:]) or "it said nothing"
