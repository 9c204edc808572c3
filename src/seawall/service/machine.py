"""What a process needs of a fresh machine: a data directory, listening sockets, open files."""

import fcntl
import os
import resource
import socket
from pathlib import Path

from seawall.access.accounts import KeyPair
from seawall.errors import Misconfigured


def prepare_data_dir(data_dir: Path) -> None:
    """Make the data directory: others may pass through it (PostgreSQL must), and see nothing.

    Raises:
        Misconfigured: it cannot be made or written.
    """
    try:
        data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        for name in ("run", "log", "journal", "monitoring", "incidents"):
            (data_dir / name).mkdir(mode=0o711 if name == "log" else 0o700, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"The data directory {data_dir} cannot be used: {error.strerror}.") from error


class sole_keeper:  # noqa: N801 - used like a function
    """Holds the data directory for the length of the block.

    Raises:
        Misconfigured: another keeper holds it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "run" / "keeper.lock"
        self._descriptor = -1

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace") or "unknown"
            os.close(self._descriptor)
            raise Misconfigured(
                f"Seawall is running on {self._path.parent.parent} already (process {holder})."
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(os.getpid()).encode())

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def keep_root_keys(data_dir: Path, pair: KeyPair) -> None:
    """Write the root account's keys where only we can read them."""
    path = data_dir / "root-credentials"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"access_key = {pair.access_key}\nsecret_key = {pair.secret_key}\n")
        file.flush()
        os.fsync(file.fileno())


def listening_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket; nodes inherit it, so that none is closed while another still serves.

    Raises:
        Misconfigured: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(4096)
    except OSError as error:
        listener.close()
        raise Misconfigured(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    listener.settimeout(0.0)
    return listener


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets us: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
