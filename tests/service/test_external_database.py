"""A database of the operator's own is looked at before it is used, and what cannot work is refused in a sentence."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.database.pgbouncer import PgBouncer
from tests.service.conftest import StartService
from tests.service.kit import BIN, clean_environment, keys_in, pattern

from seawall.database.local_server import LocalServer

PATIENCE_S = 60.0


def up(data_dir: Path, home: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Start the service on a database, and wait until it gives up."""
    return subprocess.run(
        [BIN / "seawall", "up", "--s3-port", "0", "--console-port", "0"],
        env={**clean_environment(home), "SEAWALL_DATA_DIR": str(data_dir), "SEAWALL_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_up_refuses_a_superuser_and_writes_nothing(
    local_server: LocalServer, open_directory: Callable[[], Path], tmp_path: Path
) -> None:
    ended = up(open_directory() / "data", tmp_path, local_server.superuser.url)

    assert ended.returncode != 0
    assert "is a superuser, whom no connection limit binds" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "database.migrated" not in ended.stderr


async def test_the_service_works_behind_pgbouncer_when_it_can_reach_the_server_for_what_needs_a_session(
    pgbouncer: PgBouncer, start_service: StartService
) -> None:
    # Its start takes no part in the test's event loop, in which nothing runs meanwhile.
    service = start_service(
        SEAWALL_DATABASE_URL=pgbouncer.endpoint.url, SEAWALL_DATABASE_DIRECT_URL=pgbouncer.server.url
    )
    s3, bucket = service.s3(), service.new_bucket()

    bodies = {f"key-{size}": pattern(size) for size in (10, 1000, 100_000, 3_000_000)}
    for key, body in bodies.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)

    assert {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in bodies} == bodies
    assert set(keys_in(s3, bucket)) == set(bodies)
    assert service.stop() == 0
    assert service.troubles() == []


def test_a_pgbouncer_alone_is_refused_in_a_sentence(
    pgbouncer: PgBouncer, open_directory: Callable[[], Path], tmp_path: Path
) -> None:
    ended = up(open_directory() / "data", tmp_path, pgbouncer.endpoint.url)

    assert ended.returncode != 0
    assert "SEAWALL_DATABASE_DIRECT_URL" in ended.stderr
    assert "Traceback" not in ended.stderr
