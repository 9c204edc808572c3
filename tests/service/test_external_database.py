"""A database of the operator's own is looked at before it is used, and what cannot work is refused in a sentence."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.service.kit import BIN, clean_environment

from seawall.database.local_server import LocalServer

PATIENCE_S = 60.0


def test_up_refuses_a_superuser_and_writes_nothing(
    local_server: LocalServer, open_directory: Callable[[], Path], tmp_path: Path
) -> None:
    environment = {
        **clean_environment(tmp_path),
        "SEAWALL_DATA_DIR": str(open_directory() / "data"),
        "SEAWALL_DATABASE_URL": local_server.superuser.url,
    }

    ended = subprocess.run(
        [BIN / "seawall", "up", "--s3-port", "0", "--console-port", "0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert ended.returncode != 0
    assert "is a superuser, whom no connection limit binds" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "database.migrated" not in ended.stderr
