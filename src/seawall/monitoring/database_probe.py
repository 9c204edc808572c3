"""The keeper looks at PostgreSQL each second, over a session of its own that it opens at the start and keeps.

When the server has no connection left, this one is there already. Where it is lost, another is asked for, among those
the server reserves (`pg_use_reserved_connections`, or a superuser's). A server that does not answer is asked why not:
whether nobody listens, whether its processes live, and whether it answers on a way that nodes do not use.

Behind nothing: a PgBouncer would make the session one of many. Give it the servers themselves.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from seawall.clock import monotonic_s, wall_s
from seawall.database import Endpoint, load_queries
from seawall.database.knock import answers
from seawall.database.session import DRIVER_ERRORS, open_session
from seawall.database.session import Session as Connection
from seawall.errors import DatabaseDown, SeawallError
from seawall.monitoring import local_postgres
from seawall.monitoring.database_sight import (
    NOTHING_SEEN,
    DatabaseSight,
    Holder,
    ReplicaSight,
    Session,
    Trouble,
    behind,
    masked,
)

QUERIES = load_queries(__package__, "database_probe.sql")

APPLICATION: Final = "seawall probe"

INTERVAL_S: Final = 1.0
CONNECT_S: Final = 2.0
KNOCK_S: Final = 1.0

SLOW_S: Final = 2.0
"""Who has not answered for so long does not answer. A look takes a few milliseconds, and a second on a busy machine."""

GIVEN_UP_S: Final = 10.0
"""After so long the session is given up, and another asked for. Not sooner: it may be the last that can be had."""

PATIENT: Final[Mapping[str, str]] = {
    "statement_timeout": str(round(GIVEN_UP_S * 1000)),
    "lock_timeout": str(round(GIVEN_UP_S * 1000)),
    "default_transaction_read_only": "on",
    "jit": "off",
}

NO_ANSWER: Final = "The keeper's own session with the database does not answer."

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

STATES: Final[Mapping[str, Trouble]] = {
    "53300": Trouble.FULL,
    "57P03": Trouble.STARTING,
    "57P01": Trouble.LOST,
    "57P02": Trouble.LOST,
    "53100": Trouble.NO_ROOM,
    "28P01": Trouble.DENIED,
    "28000": Trouble.DENIED,
    "3D000": Trouble.DENIED,
}
"""By SQLSTATE. Source: PostgreSQL's documentation, appendix A."""


class DatabaseProbe:
    """Looks at a server. State: the session, what was seen last, and since when a look has been waiting.

    Args:
        endpoints: the servers themselves; the first that takes writes is looked at, or the first that answers.
        role: the service's, whose sessions are ours.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, role: str, interval_s: float = INTERVAL_S) -> None:
        self._endpoints = endpoints
        self._role = role
        self._interval_s = interval_s
        self._at = 0
        self._connection: Connection | None = None
        self._connection_is_good = False
        self._seen = NOTHING_SEEN
        self._asked_s: float | None = None
        # One question at a time: the session is one, and who stops somebody asks it too.
        self._turn = asyncio.Lock()
        self._unanswered_since_s: float | None = None
        self._other_way_answers: bool | None = None
        self._postmaster: int | None = None
        self._other_way: Endpoint | None = None
        self._server: Mapping[str, Any] = {}
        self._grown: tuple[float, Mapping[str, float | None]] = (0.0, {})
        self._fell = False

    def __repr__(self) -> str:
        return f"<DatabaseProbe of {self.endpoint.name}, {'up' if self.sight.up else self.sight.trouble}>"

    @property
    def endpoint(self) -> Endpoint:
        """The server it looks at."""
        return self._endpoints[self._at]

    @property
    def data_directory(self) -> Path | None:
        """Where the server has its data, if that is on this machine and we may know."""
        directory = self._server.get("data_directory")
        return Path(directory) if directory and self._postmaster is not None else None

    @property
    def sight(self) -> DatabaseSight:
        """What is known at this moment. A look that waits for its answer counts with how long it has waited."""
        if self._asked_s is not None and monotonic_s() - self._asked_s > SLOW_S:
            return self._not_up(Trouble.SILENT, "no answer")
        return self._seen

    def point(self) -> dict[str, float]:
        """Return the columns of this second. Call it once a second: a loss that is over already is told once."""
        sight = self.sight
        if sight is NOTHING_SEEN:  # The first look has not come back: nobody knows that it is down.
            return {}
        found = sight.point()
        if self._fell:
            self._fell = False
            found["database.up"] = 0.0
        return found

    async def run(self) -> None:
        """Look each second. Runs until cancelled; then the session is closed."""
        try:
            while True:
                began_s = monotonic_s()
                await self.look()
                await asyncio.sleep(max(self._interval_s / 10, began_s + self._interval_s - monotonic_s()))
        finally:
            self._drop()

    async def look(self) -> None:
        """Look once, for `GIVEN_UP_S` at the most; while there is no answer, find out why."""
        looking = asyncio.create_task(self._look(), name="look at the database")
        try:
            while not looking.done():
                await asyncio.wait([looking], timeout=SLOW_S)
                if not looking.done():
                    await self._knock()
            await looking
            if self._seen.trouble is Trouble.SILENT:
                await self._knock()
                self._seen = replace(self._seen, other_way_answers=self._other_way_answers)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def cancel(self, session: Session) -> bool:
        """Stop what a session does; return whether it was still there, and still did that.

        Raises:
            SeawallError: the server did not do it: it does not answer, or we may not.
        """
        return await self._tell("cancel", session)

    async def terminate(self, session: Session) -> bool:
        """End a session; else as `cancel`."""
        return await self._tell("terminate", session)

    async def _tell(self, what: str, session: Session) -> bool:
        meant = (session.pid, session.began_s, session.state, session.for_s)
        try:
            async with asyncio.timeout(SLOW_S), self._turn:
                if self._connection is None:
                    raise DatabaseDown(NO_ANSWER)
                return bool(await self._connection.value(QUERIES[what].sql, *meant, within_s=SLOW_S))
        except TimeoutError as error:
            raise DatabaseDown(NO_ANSWER) from error

    async def _look(self) -> None:
        async with self._turn:
            await self._look_now()

    async def _look_now(self) -> None:
        self._asked_s = monotonic_s()
        self._unanswered_since_s = self._unanswered_since_s or self._asked_s
        try:
            # The one that was looked at last comes first; the others are asked where it does not take writes.
            failed = False
            for _ in self._endpoints:
                found = await self._ask()
                if found is not None and not (found["in_recovery"] and len(self._endpoints) > 1):
                    self._note(found, self._asked_s)
                    return
                if found is not None and not failed:
                    self._seen = self._not_up(Trouble.READ_ONLY, "only replicas answer")
                failed = failed or found is None
                if self._connection is not None and self._connection_is_good:
                    return
                self._next()
        finally:
            self._asked_s = None

    async def _ask(self) -> Any:
        """Return what a server answers, or None; then it is noted why."""
        self._connection_is_good = False
        try:
            if self._connection is None:
                await self._connect()
            assert self._connection is not None
            return json.loads(await self._connection.value(QUERIES["look"].sql, self._role, within_s=GIVEN_UP_S))
        except (SeawallError, *DRIVER_ERRORS) as error:
            self._note_failure(error)
            return None

    async def _connect(self) -> None:
        self._connection = connection = await open_session(
            self.endpoint, application_name=APPLICATION, settings=PATIENT, within_s=CONNECT_S
        )
        found = await connection.value(QUERIES["server"].sql, self._role, within_s=CONNECT_S)
        self._server = json.loads(found)
        host = self.endpoint.host
        is_near = host.startswith("/") or host in LOOPBACK
        self._postmaster = local_postgres.postmaster_of(connection.pid, role=self.endpoint.user) if is_near else None
        self._other_way = self._own_socket() if self._postmaster is not None else None
        self._grown = (0.0, {})

    def _own_socket(self) -> Endpoint | None:
        """Return the server's own socket on this machine, where nodes reach it by another way."""
        directory = str(self._server.get("sockets") or "").partition(",")[0].strip()
        port = self._server.get("port")
        if not directory or port is None or (directory, port) == (self.endpoint.host, self.endpoint.port):
            return None
        return replace(self.endpoint, host=directory, port=port)

    def _note(self, found: Mapping[str, Any], began_s: float) -> None:
        sight = sight_of(
            found,
            server=self._server,
            is_local=self._postmaster is not None,
            at_s=wall_s(),
            answer_s=monotonic_s() - began_s,
            rates=self._rates(found),
        )
        self._unanswered_since_s = self._other_way_answers = None
        before = self._seen
        self._seen = replace(sight, last_trouble=before.last_trouble, last_trouble_s=before.last_trouble_s)

    def _note_failure(self, error: BaseException) -> None:
        trouble, words = trouble_of(error)
        # What the server declined it has answered, in time: the session is good.
        self._connection_is_good = (
            self._connection is not None and not self._connection.is_lost and trouble is not Trouble.SILENT
        )
        if self._connection is not None and not self._connection_is_good and trouble is Trouble.OTHER:
            trouble = Trouble.LOST
        self._seen = self._not_up(trouble, words)
        self._fell = True

    def _next(self) -> None:
        self._drop()
        self._at = (self._at + 1) % len(self._endpoints)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    def _not_up(self, trouble: Trouble, words: str) -> DatabaseSight:
        now_s = monotonic_s()
        return replace(
            self._seen,
            at_s=wall_s(),
            up=False,
            answer_s=now_s - (self._unanswered_since_s or now_s),
            trouble=trouble,
            words=words,
            last_trouble=trouble,
            last_trouble_s=wall_s(),
            processes_live=None if self._postmaster is None else local_postgres.is_alive(self._postmaster),
            other_way_answers=self._other_way_answers,
        )

    async def _knock(self) -> None:
        """Ask whether it answers at its own socket, where that is another way than this session's."""
        if self._other_way is not None:
            self._other_way_answers = await answers(self._other_way, within_s=KNOCK_S)

    def _rates(self, found: Mapping[str, Any]) -> dict[str, float]:
        """Return the columns that tell by how much something has grown since the last look, a second."""
        now_s = monotonic_s()
        used_s = None if self._postmaster is None else local_postgres.used_s(self._postmaster)
        now = {"database.cpu": used_s, "database.opened": found["opened_ever"]}
        (before_s, before), self._grown = self._grown, (now_s, now)
        return {
            name: max(0.0, value - earlier) / (now_s - before_s)
            for name, value in now.items()
            if value is not None and (earlier := before.get(name)) is not None and now_s > before_s
        }


def sight_of(
    found: Mapping[str, Any],
    *,
    server: Mapping[str, Any],
    is_local: bool,
    at_s: float,
    answer_s: float,
    rates: Mapping[str, float],
) -> DatabaseSight:
    """Return what an answer means."""
    counts = {name: value or 0 for name, value in found["counts"].items()}
    waiters = found["waiters"] or []
    edges = {waiter["pid"]: waiter["blockers"] for waiter in waiters}
    behind_whom = behind(edges)
    blockers = [_session(one, behind_whom) for one in found["blockers"] or [] if one["pid"] in behind_whom]
    lags = [one["lag_s"] for one in found["replicas"] or [] if one["lag_s"] is not None]
    counted: dict[str, float] = {
        "database.connections": counts["connections"],
        "database.connections_max": server["connections_max"],
        "database.foreign": counts["foreign"],
        "database.active": counts["active"],
        "database.active_foreign": counts["active_foreign"],
        "database.lock_waiters": counts["lock_waiters"],
        "database.lock_wait_s": max((waiter["waited_s"] for waiter in waiters), default=0.0),
        "database.idle_in_transaction": counts["idle_in_transaction"],
        "database.idle_in_transaction_s": counts["idle_in_transaction_s"],
        "database.longest_statement_s": counts["longest_statement_s"],
    }
    if found["replicas"]:
        counted["database.replica_lag_s"] = max(lags, default=0.0)
    return DatabaseSight(
        at_s=at_s,
        up=True,
        answer_s=answer_s,
        is_local=is_local,
        processes_live=True if is_local else None,
        in_recovery=found["in_recovery"],
        connections_max=server["connections_max"],
        role_connections=counts["role"],
        role_max=server["role_max"],
        counted={**{name: float(value) for name, value in counted.items()}, **rates},
        blockers=tuple(sorted(blockers, key=lambda one: one.blocks, reverse=True)),
        holders=tuple(Holder(**one) for one in found["holders"] or []),
        longest=tuple(_session(one, behind_whom) for one in found["longest"] or []),
        idle=tuple(_session(one, behind_whom) for one in found["idle"] or []),
        replicas=tuple(ReplicaSight(**one) for one in found["replicas"] or []),
    )


def trouble_of(error: BaseException) -> tuple[Trouble, str]:
    """Return why a server could not be asked, from what the driver's error was caused by, and its words."""
    cause: BaseException | None = error
    while cause is not None:
        state = getattr(cause, "sqlstate", None)
        if state is not None:
            return STATES.get(str(state), Trouble.OTHER), str(cause)
        if isinstance(cause, ConnectionRefusedError | FileNotFoundError):
            return Trouble.REFUSED, "nobody listens at its address"
        if isinstance(cause, TimeoutError):
            return Trouble.SILENT, "no answer"
        if isinstance(cause, OSError):
            return Trouble.LOST, cause.strerror or str(cause)
        cause = cause.__cause__
    return Trouble.OTHER, str(error)


def _session(found: Mapping[str, Any], behind_whom: Mapping[int, int]) -> Session:
    return Session(
        **{**found, "doing": masked(found["doing"])},
        blocks=behind_whom.get(found["pid"], 0),
    )
