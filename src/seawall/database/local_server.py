"""Run a PostgreSQL of our own, for `seawall up`, tests and drills.

One server, one data directory, one owner: whoever holds the lock file. It listens on a UNIX socket
only, trusts nobody, and never runs as root, which PostgreSQL would refuse. Nodes do not import this
module; to them a local server is an endpoint like any other.

Under `data_dir`:
    local_server.lock       held for as long as somebody runs the server; names that process
    local_server.secrets    the two passwords, for our own user only
    postgresql.conf         written anew at each start; `alter system` overrides it
    log/postgresql.log      what PostgreSQL says
    pg/                     PostgreSQL's data, of the server's user
"""

import asyncio
import base64
import fcntl
import hashlib
import hmac
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.endpoint import Endpoint
from seawall.database.local_binaries import (
    identity_of,
    major_version,
    reachable_binaries,
    refuse_unsearchable,
    server_user,
)
from seawall.database.local_configuration import as_file, configuration, usable_cores, usable_memory_bytes
from seawall.errors import DatabaseDown, Misconfigured, NotRunning

SERVICE: Final = "seawall"
SUPERUSER: Final = "postgres"

PORT: Final = 5432
"""Only part of the socket's name: each server has a directory of its own."""

LONGEST_SOCKET_PATH: Final = 90
"""The kernel allows 107 bytes; the rest is for those who reach the directory by a longer name."""

LOG_ROTATED_BYTES: Final = 16 * 1024 * 1024

POLL_S: Final = 0.02
"""Between two looks at something that does not notify: short, because people wait for a start."""

RETRY_S: Final = 0.2
"""Between two starts that another process prevents."""

QUIT_TIMEOUT_S: Final = 10.0
"""PostgreSQL kills its own children 5 s into an immediate shutdown; then it should be gone."""

ORPHAN_PATIENCE_S: Final = 5.0
"""Backends notice a dead parent at once, unless they are busy: then they are told."""

USABLE_CONNECTIONS: Final = """
    select
        current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true), '0')::integer
"""
"""As the running server says: an operator may have set others than we chose. Before 16 there is one kind."""

LOG_LEVEL: Final = re.compile(r"\b(?:LOG|FATAL|PANIC|ERROR|DETAIL|HINT):  ")

STILL_ATTACHED: Final = b"pre-existing shared memory block"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServerSettings:
    """How to run the local server.

    `binaries` is a `bin` directory to use instead of the embedded one. `extra` overrides our
    choices of PostgreSQL's configuration, by name.
    """

    data_dir: Path
    binaries: Path | None = None
    memory_bytes: int | None = None
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 60.0
    extra: Mapping[str, str] = field(default_factory=dict)


class LocalServer:
    """A PostgreSQL for the length of a block. State: the lock, and the server process.

    When the block cannot be entered nothing of ours is left running. When it ends, committed data is
    on the disk and the server is gone.
    """

    def __init__(self, settings: LocalServerSettings) -> None:
        self._settings = settings
        self._data_dir = settings.data_dir.absolute()
        self._cluster = self._data_dir / "pg"
        self._owner = server_user()
        self._socket_directory = self._cluster
        self._passwords: Mapping[str, str] = {}
        self._binaries = Path()
        self._major = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()

    def __repr__(self) -> str:
        running = "stopped" if self._process is None else f"process {self._process.pid}"
        return f"<LocalServer {self._data_dir}, {running}>"

    async def __aenter__(self) -> Self:
        """Start the server, after stopping one that a dead owner left behind.

        Raises:
            Misconfigured: it cannot run here, or somebody else runs it. The message says what to change.
            DatabaseDown: it did not answer in time. Its log says why.
        """
        with ExitStack() as undo:
            await asyncio.to_thread(_make_directories, self._data_dir, self._owner)
            undo.enter_context(_sole_owner(self._data_dir))
            self._binaries = await asyncio.to_thread(reachable_binaries, self._settings.binaries, self._owner)
            self._major = await asyncio.to_thread(major_version, self._binaries)
            await self._stop_leftover()
            self._passwords = await asyncio.to_thread(self._initialise)
            self._socket_directory = _socket_directory(self._cluster, self._owner)
            await self._start()
            self._held = undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            await self._stop()
            if self._socket_directory != self._cluster:
                with suppress(OSError):
                    self._socket_directory.rmdir()

    @property
    def service(self) -> Endpoint:
        """The service's own database, as the role that owns it and is not a superuser."""
        return Endpoint(
            host=str(self._socket_directory),
            port=PORT,
            user=SERVICE,
            password=self._passwords[SERVICE],
            database=SERVICE,
        )

    @property
    def superuser(self) -> Endpoint:
        """The same database, as its administrator: for extensions, tests and drills."""
        return replace(self.service, user=SUPERUSER, password=self._passwords[SUPERUSER])

    @property
    def pid(self) -> int:
        """The process id of PostgreSQL's first process.

        Raises:
            NotRunning: it has exited.
        """
        if self._process is None or self._process.poll() is not None:
            raise NotRunning("PostgreSQL is not running")
        return self._process.pid

    @classmethod
    def find(cls, data_dir: Path, *, role: str = SERVICE) -> Endpoint | None:
        """Return how to reach the server that runs on this data directory, or None when none does.

        Args:
            data_dir: where it runs.
            role: as whom; `SERVICE`, or `SUPERUSER` for tests and drills.

        Raises:
            Misconfigured: one may be running, but only the user who runs it may know.
        """
        cluster = data_dir.absolute() / "pg"
        try:
            running = _Postmaster.of(cluster)
            if running is None or not running.is_ready or not running.is_alive():
                return None
            passwords = _read_passwords(data_dir)
        except PermissionError as error:
            raise Misconfigured(f"{error.filename} may be read only by the user who runs the service") from error
        return Endpoint(
            host=str(running.socket_directory),
            port=running.port,
            user=role,
            password=passwords[role],
            database=SERVICE,
        )

    async def wait_for_exit(self) -> int:
        """Return the exit code (negative: the signal) when the server ends, for whatever reason."""
        if self._process is None:
            raise NotRunning("PostgreSQL was never started")
        return await _exit_of(self._process)

    async def restart(self) -> None:
        """Stop the server if it still runs, and start it again at the same endpoint.

        Raises:
            DatabaseDown: it did not answer in time. It is stopped.
        """
        await self._stop()
        await self._stop_leftover()
        await self._start()

    async def _stop_leftover(self) -> None:
        """Stop a server whose owner was killed, and see its orphaned backends off.

        A dead first process leaves `postmaster.pid` behind, and PostgreSQL reads it at the next start:
        it refuses if that process id lives, even as somebody else's. We hold the lock and have
        looked, so then the file goes. PostgreSQL still checks the shared memory by itself.
        """
        leftover = _Postmaster.of(self._cluster)
        if leftover is None:
            return
        if leftover.is_alive():
            await _stop_stranger(leftover, timeout_s=self._settings.stop_timeout_s)
        await _see_off(self._cluster, timeout_s=self._settings.stop_timeout_s)
        for name in ("postmaster.pid", f".s.PGSQL.{leftover.port}.lock"):
            directory = self._cluster if name == "postmaster.pid" else leftover.socket_directory
            if _exists(leftover.pid):
                with suppress(OSError):
                    (directory / name).unlink()

    def _initialise(self) -> Mapping[str, str]:
        """Make a new cluster if there is none yet, and return the passwords.

        It is built beside its place and moved there whole: a crash on the way leaves no half cluster.
        """
        if self._cluster.exists():
            try:
                passwords = _read_passwords(self._data_dir)
            except FileNotFoundError as error:
                raise Misconfigured(
                    f"{self._cluster} holds a database but its passwords are gone: restore {error.filename}"
                ) from error
            held = (self._cluster / "PG_VERSION").read_text().strip()
            if held != str(self._major):
                raise Misconfigured(
                    f"{self._cluster} was written by PostgreSQL {held} and {self._binaries} holds "
                    f"{self._major}: run pg_upgrade, or name the binaries of {held}"
                )
            return passwords
        passwords = _new_passwords(self._data_dir)
        incoming = self._data_dir / "pg.incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(mode=0o700)
        os.chown(incoming, self._owner.pw_uid, self._owner.pw_gid)
        with _password_file(self._data_dir, passwords[SUPERUSER], self._owner) as password_file:
            done = self._run(
                "initdb",
                f"--pgdata={incoming}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--data-checksums",
                "--encoding=UTF8",
                "--locale=C",
            )
        if done.returncode != 0:
            shutil.rmtree(incoming, ignore_errors=True)
            raise Misconfigured(f"PostgreSQL could not make a database in {self._cluster}: {_last_words(done.stdout)}")
        incoming.rename(self._cluster)
        _sync_directory(self._data_dir)
        return passwords

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(  # noqa: S603 - our own binaries, our own arguments
            [str(self._binaries / program), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            **identity_of(self._owner),
        )

    async def _start(self) -> None:
        """Start the server and wait until it answers; stop it again when it does not."""
        try:
            await self._launch_until_it_answers(deadline_s=monotonic_s() + self._settings.start_timeout_s)
            await self._prepare_roles()
        except BaseException:
            await self._stop()
            raise

    async def _launch_until_it_answers(self, *, deadline_s: float) -> None:
        """Start the process, more than once only if an orphan we could not see still holds the memory."""
        while True:
            said_before = self._launch()
            if await self._answers(deadline_s=deadline_s):
                return
            said = _read_from(self._log, said_before)
            if STILL_ATTACHED not in said or monotonic_s() > deadline_s:
                raise DatabaseDown(f"PostgreSQL did not start: {_last_words(said)} (see {self._log})")
            await asyncio.sleep(RETRY_S)

    @property
    def _log(self) -> Path:
        return self._data_dir / "log" / "postgresql.log"

    def _launch(self) -> int:
        """Start the process; return how long its log was before."""
        file = self._data_dir / "postgresql.conf"
        memory_bytes = self._settings.memory_bytes or usable_memory_bytes()
        chosen = configuration(memory_bytes, usable_cores(), major=self._major)
        _write_whole(file, as_file({**chosen, **self._settings.extra}), mode=0o644)
        with suppress(FileNotFoundError):
            if self._log.stat().st_size > LOG_ROTATED_BYTES:
                self._log.rename(self._log.with_suffix(".log.1"))
        # Opened here and inherited: the server's user need not reach a directory of ours.
        descriptor = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            said_before = os.fstat(descriptor).st_size
            # In a session of its own: Ctrl-C in a terminal is for us, and we stop the server in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own binaries, our own arguments
                [
                    str(self._binaries / "postgres"),
                    *("-D", str(self._cluster)),
                    *("-c", f"config_file={file}"),
                    *("-k", str(self._socket_directory)),
                    *("-p", str(PORT)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd="/",
                env=_environment(),
                start_new_session=True,
                **identity_of(self._owner),
            )
        finally:
            os.close(descriptor)
        return said_before

    async def _answers(self, *, deadline_s: float) -> bool:
        """Wait until the server accepts connections; return False when it exits instead.

        Raises:
            DatabaseDown: it neither answered nor exited in time.
            Misconfigured: it does not know our password.
        """
        assert self._process is not None
        while self._process.poll() is None:
            left_s = deadline_s - monotonic_s()
            if left_s <= 0:
                raise DatabaseDown(
                    f"PostgreSQL did not answer within {self._settings.start_timeout_s:g} s (see {self._log})"
                )
            # Asked too early it answers with three lines of complaint in its log, so first we read its own note.
            noted = _Postmaster.of(self._cluster)
            if noted is None or noted.pid != self._process.pid or not noted.is_ready:
                await asyncio.sleep(POLL_S)
                continue
            try:
                connection = await _connect(replace(self.superuser, database="postgres"), timeout_s=left_s)
            except (OSError, TimeoutError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(POLL_S)
            except asyncpg.InvalidPasswordError as error:
                raise Misconfigured(
                    f"{_secrets_file(self._data_dir)} does not hold the password of the database in {self._cluster}"
                ) from error
            else:
                await connection.close()
                return True
        return False

    async def _prepare_roles(self) -> None:
        """Make the service's role, its database and the extension that only a superuser can make.

        Each start sets the role's password to what our file says. PostgreSQL gets a verifier, so that
        no log or statistic can show the password. The role's connections end where the reserved ones begin,
        whatever goes wrong with the budget: the administrator gets in.
        """
        verifier = _scram_verifier(self._passwords[SERVICE])
        memberships = ["pg_monitor", "pg_signal_backend"]
        if self._major >= 16:
            memberships.append("pg_use_reserved_connections")
        connection = await _connect(replace(self.superuser, database="postgres"), timeout_s=10.0)
        try:
            if not await connection.fetchval("select true from pg_roles where rolname = $1", SERVICE):
                await connection.execute(f"create role {SERVICE} login")
            usable = await connection.fetchval(USABLE_CONNECTIONS)
            await connection.execute(
                f"alter role {SERVICE} nosuperuser password '{verifier}' connection limit {usable}"
            )
            await connection.execute(f"grant {', '.join(memberships)} to {SERVICE}")
            if not await connection.fetchval("select true from pg_database where datname = $1", SERVICE):
                await connection.execute(f"create database {SERVICE} owner {SERVICE}")
        finally:
            await connection.close()
        connection = await _connect(self.superuser, timeout_s=10.0)
        try:
            await connection.execute("create extension if not exists pg_stat_statements")
        finally:
            await connection.close()

    async def _stop(self) -> None:
        """End the server: fast (clients are disconnected), then at once, then by force."""
        if self._process is None:
            return
        for number, patience_s in (
            (signal.SIGINT, self._settings.stop_timeout_s),
            (signal.SIGQUIT, QUIT_TIMEOUT_S),
            (signal.SIGKILL, None),
        ):
            if self._process.poll() is None:
                self._process.send_signal(number)
            with suppress(TimeoutError):
                await asyncio.wait_for(_exit_of(self._process), patience_s)
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class _Postmaster:
    """What `postmaster.pid` says: PostgreSQL's first process, dead or alive.

    `cluster` is the data directory as that process calls it: a link may give it other names.
    """

    cluster: Path
    pid: int
    port: int
    socket_directory: Path
    is_ready: bool

    @classmethod
    def of(cls, cluster: Path) -> Self | None:
        """Read the file; None when there is none, or a crash left it half written."""
        try:
            lines = (cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        lines += [""] * 8
        if not lines[0].isdecimal():
            return None
        return cls(
            cluster=Path(lines[1] or cluster),
            pid=int(lines[0]),
            port=int(lines[3] or PORT),
            socket_directory=Path(lines[4] or cluster),
            is_ready=lines[7].strip() == "ready",
        )

    def is_alive(self) -> bool:
        """Return whether that process is still our server, and not another that got its number."""
        try:
            arguments = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return Path(os.fsdecode(arguments[0])).name == "postgres" and os.fsencode(self.cluster) in arguments


async def _stop_stranger(server: _Postmaster, *, timeout_s: float) -> None:
    """Stop a server that is not our child."""
    for number, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, QUIT_TIMEOUT_S), (signal.SIGKILL, 5.0)):
        deadline_s = monotonic_s() + patience_s
        if server.is_alive():
            with suppress(ProcessLookupError):
                os.kill(server.pid, number)
        while server.is_alive():
            if monotonic_s() > deadline_s:
                break
            await asyncio.sleep(POLL_S)
        else:
            return
    raise DatabaseDown(f"process {server.pid}, an earlier PostgreSQL on {server.cluster}, cannot be stopped")


async def _see_off(cluster: Path, *, timeout_s: float) -> None:
    """Wait for backends whose first process is dead; tell those that are busy to quit.

    They write to shared memory that nobody will read again, so quitting loses nothing committed.
    """
    started_s = monotonic_s()
    told = False
    while orphans := _processes_in(cluster):
        waited_s = monotonic_s() - started_s
        if waited_s > ORPHAN_PATIENCE_S and not told:
            told = True
            for pid in orphans:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT)
        if waited_s > timeout_s:
            raise DatabaseDown(f"process {orphans[0]} of an earlier PostgreSQL on {cluster} does not end")
        await asyncio.sleep(POLL_S)


def _processes_in(cluster: Path) -> list[int]:
    """Return the PostgreSQL processes whose working directory is this cluster, as far as we may see."""
    resolved = cluster.resolve()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if (entry / "comm").read_text() == "postgres\n" and (entry / "cwd").readlink() == resolved:
                    found.append(int(entry.name))
    return found


async def _exit_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child on whatever event loop this is, without a thread and without polling."""
    if process.poll() is None:
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        descriptor = os.pidfd_open(process.pid)
        try:
            loop.add_reader(descriptor, gone.set)
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    return process.wait()


async def _connect(endpoint: Endpoint, *, timeout_s: float) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        **endpoint.connect_arguments(), timeout=timeout_s, server_settings={"application_name": "seawall local server"}
    )


def _environment() -> dict[str, str]:
    """Return what PostgreSQL may know of our environment: no PG* defaults, no keys of the service."""
    kept = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}


def _make_directories(data_dir: Path, owner: pwd.struct_passwd) -> None:
    """Make the data directory, searchable by the server's user, and the log directory, for us alone."""
    try:
        if not data_dir.exists():
            data_dir.mkdir(parents=True)
            data_dir.chmod(0o711 if owner.pw_uid != os.geteuid() else 0o700)
        (data_dir / "log").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"{error.filename} cannot be made: {error.strerror}; choose another place") from error
    refuse_unsearchable(data_dir, owner)


@contextmanager
def _sole_owner(data_dir: Path) -> Iterator[None]:
    """Hold the data directory's lock, which the kernel releases when we die."""
    descriptor = os.open(data_dir / "local_server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode().strip() or "unknown"
            raise Misconfigured(f"{data_dir} is in use by process {holder}: stop it, or choose another") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _socket_directory(cluster: Path, owner: pwd.struct_passwd) -> Path:
    """Return where the socket goes: beside the data, unless that name is too long for the kernel.

    The other place has a name of its own for each cluster, always the same, so that nodes find a
    restarted server again. Whoever got there first must have been us.
    """
    if len(os.fsencode(cluster / f".s.PGSQL.{PORT}")) <= LONGEST_SOCKET_PATH:
        return cluster
    name = hashlib.sha256(os.fsencode(cluster.resolve())).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"seawall-{name}"
    try:
        directory.mkdir(mode=0o700)
        os.chown(directory, owner.pw_uid, owner.pw_gid)
    except FileExistsError:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner.pw_uid or stat.S_IMODE(status.st_mode) != 0o700:
            raise Misconfigured(f"{directory} should be a directory of {owner.pw_name} alone: remove it") from None
    refuse_unsearchable(directory, owner)
    return directory


def _secrets_file(data_dir: Path) -> Path:
    return data_dir / "local_server.secrets"


def _read_passwords(data_dir: Path) -> Mapping[str, str]:
    passwords = json.loads(_secrets_file(data_dir).read_text())
    assert isinstance(passwords, dict)
    return passwords


def _new_passwords(data_dir: Path) -> Mapping[str, str]:
    passwords = {role: secrets.token_urlsafe(24) for role in (SUPERUSER, SERVICE)}
    _write_whole(_secrets_file(data_dir), json.dumps(passwords), mode=0o600)
    return passwords


@contextmanager
def _password_file(data_dir: Path, password: str, owner: pwd.struct_passwd) -> Iterator[Path]:
    """Keep a password where only the server's user, and only during the block, can read it."""
    path = data_dir / "initdb.password"
    try:
        _write_whole(path, password + "\n", mode=0o600)
        os.chown(path, owner.pw_uid, owner.pw_gid)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _write_whole(path: Path, text: str, *, mode: int) -> None:
    """Replace a file's content, for good: after a crash it is either the old or the new one."""
    incoming = path.with_name(f"{path.name}.incoming")
    incoming.unlink(missing_ok=True)
    descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor, for its mode from the first moment on
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    incoming.rename(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _scram_verifier(password: str) -> str:
    """Return what PostgreSQL stores of a password.

    Source: RFC 5803, as written by PostgreSQL's `pg_authid.rolpassword`.
    """
    salt, iterations = secrets.token_bytes(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    shown = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return "SCRAM-SHA-256${iterations}:{0}${1}:{2}".format(*shown, iterations=iterations)


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _read_from(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read()


def _last_words(said: bytes) -> str:
    """Return what PostgreSQL said at the end, without times and numbers: the complaint and its cause."""
    lines = said.decode(errors="replace").strip().splitlines()[-2:]
    return "; ".join(LOG_LEVEL.split(line, maxsplit=1)[-1] for line in lines) or "it said nothing"
