"""Where a PostgreSQL is reached, and as whom."""

from dataclasses import dataclass, field
from typing import TypedDict
from urllib.parse import quote


class ConnectArguments(TypedDict):
    """What the driver's `connect` wants to know of an endpoint."""

    host: str
    port: int
    user: str
    password: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address, role and database. `host` is a name, or the directory of a UNIX socket."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str

    @property
    def url(self) -> str:
        """The same as one line, for other programs. It holds the password: never log it.

        >>> Endpoint(host="/run/pg", port=5432, user="seawall", password="a/b", database="files").url
        'postgresql://seawall:a%2Fb@/files?host=%2Frun%2Fpg&port=5432'
        """
        user, password, database, host = (
            quote(part, safe="") for part in (self.user, self.password, self.database, self.host)
        )
        return f"postgresql://{user}:{password}@/{database}?host={host}&port={self.port}"

    def connect_arguments(self) -> ConnectArguments:
        """Return the keyword arguments that make the driver connect here, whatever the environment says."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
        }
