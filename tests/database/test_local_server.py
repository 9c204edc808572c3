import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from seawall.database.endpoint import Endpoint
from seawall.database.local_binaries import install, server_user
from seawall.database.local_server import LOG_ROTATED_BYTES, PORT, LocalServer, LocalServerSettings
from seawall.errors import DatabaseDown, Misconfigured, NotRunning

MIB = 1024 * 1024

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")


@pytest.fixture
def data_dir(open_directory: Callable[[], Path]) -> Path:
    return open_directory() / "data"


@pytest.fixture
async def server(data_dir: Path) -> AsyncIterator[LocalServer]:
    async with small_server(data_dir) as running:
        yield running


def small_server(data_dir: Path, **extra: str) -> LocalServer:
    return LocalServer(LocalServerSettings(data_dir=data_dir, memory_bytes=512 * MIB, extra=extra))


async def ask(endpoint: Endpoint, statement: str) -> object:
    connection = await asyncpg.connect(**endpoint.connect_arguments())
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_what_was_committed_is_there_after_a_stop_and_a_start(data_dir: Path) -> None:
    async with small_server(data_dir) as server:
        await ask(server.service, "create table kept as select 42 as answer")

    async with small_server(data_dir) as server:
        assert await ask(server.service, "select answer from kept") == 42


async def test_a_restarted_server_is_at_the_same_endpoint(server: LocalServer) -> None:
    endpoint, pid = server.service, server.pid

    await server.restart()

    assert server.service == endpoint
    assert server.pid != pid
    assert await ask(endpoint, "select 1") == 1


async def test_a_killed_server_is_noticed_and_after_a_restart_has_lost_nothing_committed(server: LocalServer) -> None:
    await ask(server.service, "create table kept as select generate_series(1, 1000) as n")

    os.kill(server.pid, signal.SIGKILL)
    exit_code = await asyncio.wait_for(server.wait_for_exit(), 5)
    with pytest.raises(NotRunning):
        _ = server.pid
    await server.restart()

    assert exit_code == -signal.SIGKILL
    assert await ask(server.service, "select count(*) from kept") == 1000


async def test_a_backend_too_busy_to_notice_its_dead_parent_does_not_prevent_a_restart(server: LocalServer) -> None:
    # Its signals are stopped, as those of a backend deep in a computation might as well be.
    connection = await asyncpg.connect(**server.service.connect_arguments())
    backend = await connection.fetchval("select pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(1.0, os.kill, backend, signal.SIGCONT)

    os.kill(server.pid, signal.SIGKILL)
    await server.wait_for_exit()
    await server.restart()

    assert await ask(server.service, "select 1") == 1
    assert not readable(Path(f"/proc/{backend}/cwd"))
    connection.terminate()


async def test_a_second_start_on_the_same_data_is_refused_and_names_the_first(
    server: LocalServer, data_dir: Path
) -> None:
    with pytest.raises(Misconfigured, match=rf"in use by process {os.getpid()}\b"):
        await small_server(data_dir).__aenter__()

    assert await ask(server.service, "select 1") == 1


async def test_a_server_whose_owner_was_killed_is_stopped_and_started_anew(data_dir: Path) -> None:
    program = (
        "import asyncio, sys, pathlib, seawall.database.local_server as s\n"
        "async def main():\n"
        "    settings = s.LocalServerSettings(data_dir=pathlib.Path(sys.argv[1]), memory_bytes=2**29)\n"
        "    async with s.LocalServer(settings) as server:\n"
        "        print(server.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(data_dir)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    old_pid = int(await asyncio.to_thread(owner.stdout.readline))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    endpoint = LocalServer.find(data_dir)
    assert endpoint is not None
    await ask(endpoint, "create table kept as select 42 as answer")

    async with small_server(data_dir) as server:
        assert server.pid != old_pid
        assert await ask(server.service, "select answer from kept") == 42

    assert not Path(f"/proc/{old_pid}/cwd").exists()


async def test_a_process_that_got_the_number_of_a_dead_server_is_left_alone(data_dir: Path) -> None:
    async with small_server(data_dir) as server:
        noted = (data_dir / "pg" / "postmaster.pid").read_text()
    stranger = subprocess.Popen(["sleep", "60"], user=server_user().pw_uid)
    lines = noted.splitlines()
    (data_dir / "pg" / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:], ""]))

    try:
        async with small_server(data_dir) as server:
            assert await ask(server.service, "select 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_the_running_server_is_found_by_its_data_directory_and_not_once_stopped(data_dir: Path) -> None:
    assert LocalServer.find(data_dir) is None

    async with small_server(data_dir) as server:
        link = data_dir.with_name("link")
        link.symlink_to(data_dir)
        assert LocalServer.find(data_dir) == LocalServer.find(link) == server.service

    assert LocalServer.find(data_dir) is None


async def test_the_services_role_owns_its_database_and_is_no_superuser(server: LocalServer) -> None:
    endpoint = server.service

    assert await ask(endpoint, "select current_setting('is_superuser')") == "off"
    assert await ask(endpoint, "select pg_get_userbyid(datdba) from pg_database where datname = 'seawall'") == "seawall"
    for role in ("pg_monitor", "pg_signal_backend", "pg_use_reserved_connections"):
        assert await ask(endpoint, f"select pg_has_role('seawall', '{role}', 'member')") is True


async def test_the_services_role_cannot_take_the_connections_that_are_reserved(data_dir: Path) -> None:
    limit = "select rolconnlimit from pg_roles where rolname = 'seawall'"
    async with small_server(data_dir) as server:
        assert await ask(server.superuser, limit) == 100 - 3 - 5

    async with small_server(data_dir, max_connections="12", superuser_reserved_connections="2") as server:
        held = [await asyncpg.connect(**server.service.connect_arguments()) for _ in range(12 - 2 - 5)]
        with pytest.raises(asyncpg.TooManyConnectionsError):
            await ask(server.service, "select 1")
        assert await ask(server.superuser, "select 1") == 1
        for connection in held:
            await connection.close()


async def test_statements_are_counted_by_their_text(server: LocalServer) -> None:
    await ask(server.service, "select /* a.name */ 1")

    assert await ask(server.service, "select count(*) from pg_stat_statements where query like '%/* a.name */%'") == 1


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_a_wrong_password_is_refused(server: LocalServer, password: str) -> None:
    for endpoint in (server.service, server.superuser):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
            await ask(replace(endpoint, password=password), "select 1")


async def test_the_server_answers_on_its_socket_only_and_checks_its_pages(server: LocalServer) -> None:
    assert await ask(server.superuser, "show listen_addresses") == ""
    assert await ask(server.superuser, "show data_checksums") == "on"
    assert await ask(server.superuser, "show server_encoding") == "UTF8"
    assert (
        await ask(server.superuser, "select count(*) from pg_hba_file_rules where auth_method <> 'scram-sha-256'") == 0
    )


async def test_no_password_is_in_a_readable_file_a_log_a_statistic_or_the_list_of_processes(
    server: LocalServer, data_dir: Path
) -> None:
    passwords = [server.service.password.encode(), server.superuser.password.encode()]
    secrets_file = data_dir / "local_server.secrets"

    processes = b"".join(
        file.read_bytes()
        for kind in ("cmdline", "environ")
        for file in Path("/proc").glob(f"[0-9]*/{kind}")
        if readable(file)
    )
    statements = await ask(server.superuser, "select string_agg(query, ' ') from pg_stat_statements")
    written = [file for file in data_dir.rglob("*") if file.is_file() and file != secrets_file]

    assert stat.S_IMODE(secrets_file.stat().st_mode) == 0o600
    assert secrets_file.stat().st_uid == os.geteuid()
    for password in passwords:
        assert password not in processes
        assert password.decode() not in str(statements)
        assert not [file for file in written if password in file.read_bytes()]
        assert password.decode() not in repr(server) + repr(server.service)


def readable(file: Path) -> bool:
    try:
        return bool(file.readlink() if file.is_symlink() else file.read_bytes())
    except OSError:
        return False


async def test_what_the_server_says_is_in_its_log_for_us_alone(server: LocalServer, data_dir: Path) -> None:
    log = data_dir / "log" / "postgresql.log"

    assert "ready to accept connections" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


async def test_a_long_log_is_put_aside_at_the_next_start(data_dir: Path) -> None:
    (data_dir / "log").mkdir(parents=True)
    data_dir.chmod(0o711)
    log = data_dir / "log" / "postgresql.log"
    with log.open("w") as file:
        file.truncate(LOG_ROTATED_BYTES + 1)

    async with small_server(data_dir):
        assert log.stat().st_size < LOG_ROTATED_BYTES

    assert (data_dir / "log" / "postgresql.log.1").stat().st_size == LOG_ROTATED_BYTES + 1


async def test_a_path_too_long_for_a_socket_is_replaced_by_a_private_directory(data_dir: Path) -> None:
    long_dir = data_dir / ("deep" * 20)
    long_dir.parent.mkdir(mode=0o711)

    async with small_server(long_dir) as server:
        directory = Path(server.service.host)
        assert directory != long_dir / "pg"
        assert len(str(directory / f".s.PGSQL.{PORT}")) <= 90
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert directory.stat().st_uid == server_user().pw_uid
        assert LocalServer.find(long_dir) == server.service
        assert await ask(server.service, "select 1") == 1

    assert not directory.exists()


@needs_root
async def test_root_runs_the_server_as_somebody_else(server: LocalServer, data_dir: Path) -> None:
    runs_as = Path(f"/proc/{server.pid}").stat().st_uid

    assert runs_as != 0
    assert runs_as == pwd.getpwnam(server_user().pw_name).pw_uid
    assert (data_dir / "pg").stat().st_uid == runs_as
    assert stat.S_IMODE((data_dir / "pg").stat().st_mode) == 0o700


@needs_root
async def test_a_directory_the_servers_user_cannot_enter_is_refused_by_name(open_directory: Callable[[], Path]) -> None:
    closed = open_directory() / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(Misconfigured, match=f"may not enter {closed}:"):
        await small_server(closed / "data").__aenter__()


async def test_lost_passwords_are_named_and_the_data_is_left_alone(data_dir: Path) -> None:
    async with small_server(data_dir):
        pass
    (data_dir / "local_server.secrets").unlink()

    with pytest.raises(Misconfigured, match=r"restore .*local_server\.secrets"):
        await small_server(data_dir).__aenter__()

    assert (data_dir / "pg" / "PG_VERSION").exists()


async def test_data_of_another_version_is_refused_in_a_sentence(data_dir: Path) -> None:
    async with small_server(data_dir):
        pass
    (data_dir / "pg" / "PG_VERSION").write_text("14\n")

    with pytest.raises(Misconfigured, match="was written by PostgreSQL 14"):
        await small_server(data_dir).__aenter__()


async def test_a_server_that_cannot_start_says_why_and_leaves_nothing_running(data_dir: Path) -> None:
    with pytest.raises(DatabaseDown, match="no_such_setting"):
        await small_server(data_dir, no_such_setting="1").__aenter__()

    assert LocalServer.find(data_dir) is None
    async with small_server(data_dir) as server:
        assert await ask(server.service, "select 1") == 1


async def test_a_database_half_made_by_a_crash_is_made_again(data_dir: Path) -> None:
    data_dir.mkdir()
    data_dir.chmod(0o711)
    (data_dir / "pg.incoming").mkdir()
    (data_dir / "pg.incoming" / "PG_VERSION").write_text("18\n")

    async with small_server(data_dir) as server:
        assert await ask(server.service, "select 1") == 1

    assert not (data_dir / "pg.incoming").exists()


async def test_an_operators_own_setting_overrides_ours_and_survives_a_restart(server: LocalServer) -> None:
    await ask(server.superuser, "alter system set work_mem = '7MB'")

    await server.restart()

    assert await ask(server.service, "show work_mem") == "7MB"


def test_programs_are_copied_once_and_whole(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "pg"
    (package / "pginstall" / "bin").mkdir(parents=True)
    (package / "pginstall" / "bin" / "postgres").write_text("program")
    (package / "pginstall" / "bin" / "postgres").chmod(0o700)
    (tmp_path / "site-packages" / "pg.libs").mkdir()
    (tmp_path / "site-packages" / "pg.libs" / "libpq.so").write_text("library")
    target = tmp_path / "installed" / "pgsql-1"

    install(package, target)
    shutil.rmtree(package)
    install(package, target)

    copied = target / "pg" / "pginstall" / "bin" / "postgres"
    assert stat.S_IMODE(copied.stat().st_mode) == 0o755
    assert (copied / "../../../../pg.libs/libpq.so").resolve().read_text() == "library"
    assert [entry.name for entry in target.parent.iterdir()] == ["pgsql-1"]
