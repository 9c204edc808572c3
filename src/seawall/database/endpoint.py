"""Where a PostgreSQL is reached, and as whom."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NotRequired, Self, TypedDict
from urllib.parse import parse_qs, quote, unquote, urlsplit

from seawall.errors import Misconfigured

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
SSL_MODES: Mapping[str, SslMode] = {
    "disable": "disable",
    "allow": "allow",
    "prefer": "prefer",
    "require": "require",
    "verify-ca": "verify-ca",
    "verify-full": "verify-full",
}

# How other programs choose among several hosts; we find the roles by ourselves.
ROLE_OPTIONS = frozenset({"target_session_attrs", "load_balance_hosts"})
PORT = 5432


class ConnectArguments(TypedDict):
    """What the driver's `connect` wants to know of an endpoint."""

    host: str
    port: int
    user: str
    password: str
    database: str
    ssl: NotRequired[SslMode]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address, role and database. `host` is a name, or the directory of a UNIX socket."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    ssl_mode: SslMode | None = None

    @classmethod
    def parse(cls, url: str) -> tuple[Self, ...]:
        """Read a `postgresql://user:password@host:port,host:port/database?sslmode=…` address of one or more servers.

        As libpq reads it: hosts may stand in an option `host` too, and there may be as many ports as hosts, or one.

        Raises:
            Misconfigured: it is none; the message does not repeat it, for it may hold a password.
        """
        try:
            parts = urlsplit(url)
            options = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
            places = _places(
                parts.netloc.rpartition("@")[2], options.get("host", [""])[0], options.get("port", [""])[0]
            )
        except ValueError as error:
            raise Misconfigured("SEAWALL_DATABASE_URL is not an address.") from error
        if parts.scheme not in {"postgresql", "postgres"}:
            raise Misconfigured("SEAWALL_DATABASE_URL starts with postgresql://")
        if len(set(places)) < len(places):
            raise Misconfigured("SEAWALL_DATABASE_URL names a server twice.")
        strange = options.keys() - {"host", "port", "sslmode"} - ROLE_OPTIONS
        if strange:
            raise Misconfigured(f"SEAWALL_DATABASE_URL has an option nobody knows: {strange.pop()}.")
        ssl_mode = options.get("sslmode", [""])[0]
        if ssl_mode and ssl_mode not in SSL_MODES:
            raise Misconfigured(f"SEAWALL_DATABASE_URL: there is no sslmode {ssl_mode}.")
        user = unquote(parts.username or "seawall")
        return tuple(
            cls(
                host=host,
                port=port,
                user=user,
                password=unquote(parts.password or ""),
                database=unquote(parts.path.lstrip("/")) or user,
                ssl_mode=SSL_MODES.get(ssl_mode),
            )
            for host, port in places
        )

    @property
    def name(self) -> str:
        """Host and port: how the server is called in logs, metrics and leases."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The same as one line, for other programs. It holds the password: never log it.

        >>> Endpoint(host="/run/pg", port=5432, user="seawall", password="a/b", database="files").url
        'postgresql://seawall:a%2Fb@/files?host=%2Frun%2Fpg&port=5432'
        """
        user, password, database, host = (
            quote(part, safe="") for part in (self.user, self.password, self.database, self.host)
        )
        ssl = f"&sslmode={self.ssl_mode}" if self.ssl_mode else ""
        return f"postgresql://{user}:{password}@/{database}?host={host}&port={self.port}{ssl}"

    def connect_arguments(self) -> ConnectArguments:
        """Return the keyword arguments that make the driver connect here, whatever the environment says."""
        arguments: ConnectArguments = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
        }
        if self.ssl_mode:
            arguments["ssl"] = self.ssl_mode
        return arguments


def _places(netloc: str, hosts: str, ports: str) -> list[tuple[str, int]]:
    """Return hosts and ports; those of the options win.

    Raises:
        ValueError: a port is none, or there are not as many as hosts.
    """
    parts = [urlsplit(f"//{place}") for place in netloc.split(",")]
    names = hosts.split(",") if hosts else [unquote(part.hostname or "127.0.0.1") for part in parts]
    numbers = [int(port) for port in ports.split(",")] if ports else [part.port or PORT for part in parts]
    if len(numbers) == 1:
        numbers *= len(names)
    return list(zip(names, numbers, strict=True))
