"""Sessions of other programs on the service's PostgreSQL: opened, held, and seen off again.

A drill knows its sessions by their application name, so that none is overlooked: a server works on for a client that
has gone, until it is told to stop.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from seawall.clock import monotonic_s
from seawall.database import Endpoint
from seawall.database.session import Session, open_session
from seawall.drills.undo import POLL_S, see_through
from seawall.errors import SeawallError

SEEN_OFF_WITHIN_S = 20.0
"""How long it may take until no session is left; longer than a killed server takes to come back."""

ASK_S = 5.0
FILLED_WITHIN_S = 30.0
OPENED_AT_ONCE = 8
PAUSE_S = 0.2
"""Between two attempts to take a connection that somebody else gave back."""

SEE_OFF = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where application_name = $1 and pid <> pg_backend_pid()
"""

PATIENT: Mapping[str, str] = {
    # They stay until they are seen off, however long the server would suffer them.
    "idle_in_transaction_session_timeout": "0",
    "statement_timeout": "0",
    "lock_timeout": "0",
}


class Crew:
    """The sessions of one drill. State: those that are open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sessions: list[Session] = []

    def __repr__(self) -> str:
        return f"<Crew {self.name}: {len(self.sessions)} sessions>"

    async def open(self, endpoint: Endpoint) -> Session:
        """Open one more.

        Raises:
            DatabaseDown: the server cannot be reached, or accepts no more.
        """
        session = await open_session(endpoint, application_name=self.name, settings=PATIENT)
        self.sessions.append(session)
        return session

    async def fill(self, endpoint: Endpoint, *, then: str = "", at_once: int = OPENED_AT_ONCE) -> None:
        """Open sessions until the server accepts no more; each then runs `then`.

        Raises:
            TimeoutError: it still accepts some after `FILLED_WITHIN_S`.
        """

        async def take() -> None:
            while True:
                try:
                    session = await self.open(endpoint)
                    if then:
                        await session.run(then, within_s=ASK_S)
                except SeawallError:
                    return

        async with asyncio.timeout(FILLED_WITHIN_S), asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(take())

    async def keep_filled(self, endpoint: Endpoint, *, then: str = "") -> None:
        """Take whatever others give back, until cancelled."""
        while True:
            self.sessions = [session for session in self.sessions if not session.is_lost]
            # One at a time: who will be refused takes a place too, for a moment, and it may be the administrator's.
            await self.fill(endpoint, then=then, at_once=1)
            await asyncio.sleep(PAUSE_S)

    async def disband(self, superuser: Endpoint, by: Session) -> None:
        """Close all, and return when the server has none of them left.

        Args:
            superuser: how to reach the server again where `by` is lost.
            by: a session that was opened while that was possible.

        Raises:
            DatabaseDown: the server cannot be asked.
            TimeoutError: some are left.
        """
        for session in self.sessions:
            session.drop()
        self.sessions.clear()
        deadline_s = monotonic_s() + SEEN_OFF_WITHIN_S
        left: object = "an unknown number"
        try:
            while True:
                try:
                    if by.is_lost:
                        by = await open_session(superuser, application_name=f"{self.name} (undo)")
                    left = await by.value(SEE_OFF, self.name, within_s=ASK_S)
                except SeawallError:
                    if monotonic_s() > deadline_s:
                        raise
                if left == 0:
                    return
                if monotonic_s() > deadline_s:
                    raise TimeoutError(f"{left} sessions of {self.name} are left")
                await asyncio.sleep(POLL_S)
        finally:
            by.drop()


@asynccontextmanager
async def crew(superuser: Endpoint, name: str) -> AsyncIterator[Crew]:
    """Have sessions for the length of the block; afterwards the server has none of them left."""
    undoer = await open_session(superuser, application_name=f"{name} (undo)")
    members = Crew(name)
    try:
        yield members
    finally:
        await see_through(members.disband(superuser, undoer))


@asynccontextmanager
async def stranger(superuser: Endpoint, role: str) -> AsyncIterator[Endpoint]:
    """Have a role that is neither the service's nor a superuser, for the length of the block."""
    password = secrets.token_urlsafe(24)
    session = await open_session(superuser, application_name=f"{role} (undo)")
    try:
        await session.run(f"drop role if exists {role}; create role {role} login password '{password}'", within_s=ASK_S)
        yield replace(superuser, user=role, password=password)
    finally:
        await see_through(_drop_role(superuser, session, role))


async def _drop_role(superuser: Endpoint, by: Session, role: str) -> None:
    deadline_s = monotonic_s() + SEEN_OFF_WITHIN_S
    try:
        while True:
            try:
                if by.is_lost:
                    by = await open_session(superuser, application_name=f"{role} (undo)")
                await by.run(f"drop role if exists {role}", within_s=ASK_S)
            except SeawallError:
                if monotonic_s() > deadline_s:
                    raise
                await asyncio.sleep(POLL_S)
            else:
                return
    finally:
        by.drop()
