"""A real PgBouncer in transaction mode, before a server of the tests."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from seawall.database import Endpoint
from seawall.database.local_binaries import identity_of, server_user

SERVER_CONNECTIONS = 2
STARTS_WITHIN_S = 10.0


def pgbouncer_program() -> str:
    """Return the path of the program; without it the test is skipped aloud, but never where `CI=true`."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("pgbouncer is required here, and not installed")
    if found is None:
        pytest.skip("pgbouncer is not installed")
    return found


@dataclass(slots=True)
class PgBouncer:
    """A PgBouncer in transaction mode before a server. State: its process."""

    program: str
    directory: Path
    server: Endpoint
    options: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> Endpoint:
        return replace(self.server, host=str(self.directory))

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        owner = server_user()
        chosen = {
            "unix_socket_dir": self.directory,
            "listen_port": self.server.port,
            "auth_type": "scram-sha-256",
            "auth_file": self.directory / "users.txt",
            "pool_mode": "transaction",
            "default_pool_size": SERVER_CONNECTIONS,
            **self.options,
        }
        lines = [f"{name} = {value}" for name, value in chosen.items()]
        database = f"{self.server.database} = host={self.server.host} port={self.server.port}"
        ini = self.directory / "pgbouncer.ini"
        ini.write_text("\n".join(["[databases]", database, "[pgbouncer]", *lines, ""]))
        users = self.directory / "users.txt"
        users.write_text(f'"{self.server.user}" "{self.server.password}"\n')
        for path in (self.directory, ini, users):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen([self.program, str(ini)], stdout=log, stderr=log, **identity_of(owner))
        deadline_s = time.monotonic() + STARTS_WITHIN_S
        while not (self.directory / f".s.PGSQL.{self.server.port}").exists():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline_s, self.log
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None
        (self.directory / f".s.PGSQL.{self.server.port}").unlink(missing_ok=True)
