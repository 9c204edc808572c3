"""What the keeper sees when it looks at PostgreSQL: values, and what follows from them. Nothing here asks anybody."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Self

TEXT_MAX: Final = 200
"""Characters of a statement that are shown."""

HIDDEN: Final = "?"

LITERALS: Final = re.compile(
    r"""
      (?P<kept> "(?: [^"] | "" )* "                     # a name, which may hold quotes of the other kind,
        | /\*\ [\w.]+\ \*/ )                             # and what our own statements are called, are shown
    | -- [^\n]* | /\* (?: (?! /\* | \*/ ). )+ \*/       # other comments
    | /\* .* | " .*                                     # such within such, or cut off: nobody can tell where it ends
    | \$(?P<tag>\w*)\$ .*? (?: \$(?P=tag)\$ | \Z )      # $$…$$; the text may have been cut
    | (?<!\w) e'(?: [^'\\] | '' | \\. )* (?: ' | \Z )    # e'…', with quotes and backslashes inside
    | '(?: [^'\\] | '' )* (?: ' | \Z | \\.* )            # '…'; with a backslash in it, a setting tells where it ends
    | (?<![\w$"]) \.? \d [\w.]* (?: (?<=e) [+-] \d+ )?  # 12, .5, 1e-9, 0xff; not the $1 of a parameter
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


class Trouble(StrEnum):
    """Why the server does not answer the keeper."""

    FULL = "full"
    """It accepts no more connections."""
    STARTING = "starting"
    """It is there, and starts, stops or recovers."""
    REFUSED = "refused"
    """Nobody listens at its address."""
    SILENT = "silent"
    """Nothing comes back, and nobody says why."""
    LOST = "lost"
    """It closed our connection."""
    DENIED = "denied"
    """It does not let us in: the password, or its rules."""
    READ_ONLY = "read only"
    """Only replicas answer: nobody takes writes."""
    NO_ROOM = "no room"
    """Its disk is full."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session of the server. `began_s` is when its connection began, on the server's clock since 1970.

    `doing` is its statement, or its last one, without what may be somebody's data. `for_s` is how long it has been in
    its state. `is_ours`: it is of the service's role. `blocks` is how many wait for it.
    """

    pid: int
    began_s: float
    role: str
    application: str
    state: str
    doing: str
    for_s: float
    is_ours: bool
    waits_for_lock: bool = False
    blocks: int = 0

    @property
    def is_idle_in_transaction(self) -> bool:
        """Whether it does nothing, and holds what its transaction holds."""
        return self.state.startswith("idle in transaction")

    @property
    def who(self) -> str:
        """How it is called in sentences."""
        return f"session {self.pid} ({self.application or 'without a name'}, role {self.role})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has connections: all sessions with one application name and role."""

    application: str
    role: str
    connections: int
    idle_in_transaction: int
    is_ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSight:
    """A replica, as its primary sees it. `lag_s` is how late what it replays is; None: it has replayed everything."""

    name: str
    state: str
    lag_s: float | None
    lag_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSight:
    """What was seen of the server. Where it does not answer, all but the first fields are what was seen last.

    Args:
        at_s: when, on the wall clock.
        up: whether it answered.
        answer_s: how long that took, or for how long it has not.
        trouble: why it does not answer, or what the latest attempt to connect ended with.
        words: what it said, in its own words.
        is_local: whether its processes are on this machine.
        processes_live: whether its first process is there, where it is local.
        other_way_answers: whether it answers on a way that nodes do not use; None: there is none, or nobody asked.
        connections_max: what it accepts, without what is reserved for administrators.
        role_connections, role_max: the same of the service's role; `role_max` None where it has no limit of its own.
        counted: the columns `database.*` of the last answer.
        blockers: who others wait for and who waits for nobody, the one with most behind it first.
        holders: who has connections, the one with most first.
        longest: statements that run, the longest first.
        idle: sessions that are idle in a transaction, the longest first.
    """

    at_s: float
    up: bool
    answer_s: float
    trouble: Trouble | None = None
    words: str = ""
    is_local: bool = False
    processes_live: bool | None = None
    other_way_answers: bool | None = None
    in_recovery: bool = False
    connections_max: int = 0
    role_connections: int = 0
    role_max: int | None = None
    counted: Mapping[str, float]
    blockers: tuple[Session, ...] = ()
    holders: tuple[Holder, ...] = ()
    longest: tuple[Session, ...] = ()
    idle: tuple[Session, ...] = ()
    replicas: tuple[ReplicaSight, ...] = ()
    last_trouble: Trouble | None = None
    last_trouble_s: float = 0.0
    """The last time it did not answer, also where that is over."""

    def point(self) -> dict[str, float]:
        """Return the columns of a second. What was seen last is not what is, so it is left out when nobody answers."""
        answered = {"database.up": float(self.up), "database.answer_s": self.answer_s}
        return {**answered, **self.counted} if self.up else answered

    def as_json(self) -> dict[str, Any]:
        """Return what `json.dumps` can write."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return the sight that was written."""

        def known(trouble: str | None) -> Trouble | None:
            return None if trouble is None else Trouble(trouble)

        return cls(
            **{
                **found,
                "trouble": known(found["trouble"]),
                "last_trouble": known(found["last_trouble"]),
                "holders": tuple(Holder(**one) for one in found["holders"]),
                "replicas": tuple(ReplicaSight(**one) for one in found["replicas"]),
                **{name: tuple(Session(**one) for one in found[name]) for name in ("blockers", "longest", "idle")},
            }
        )


NOTHING_SEEN: Final = DatabaseSight(at_s=0.0, up=False, answer_s=0.0, words="nobody has looked yet", counted={})


def masked(statement: str) -> str:
    """Return a statement as it may be shown: on one line, cut, and without values, which may be somebody's data.

    >>> masked("update accounts set secret = 'it''s' where id = 42 and name = $1")
    'update accounts set secret = ? where id = ? and name = $1'
    """
    shown = " ".join(LITERALS.sub(lambda found: found["kept"] or HIDDEN, statement).split())
    return shown if len(shown) <= TEXT_MAX else f"{shown[: TEXT_MAX - 1]}…"


def behind(edges: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Return who is at the root of all waiting, and how many wait for them, directly or behind others.

    Args:
        edges: for each session that waits, those it waits for. Where they wait for each other in a circle, for the
            server to notice, the first of the circle counts as its root.

    >>> behind({2: [1], 3: [2], 4: [3]})
    {1: 3}
    """
    found: dict[int, int] = {}
    for waiter in edges:
        for root in _roots(waiter, edges):
            found[root] = found.get(root, 0) + 1
    return found


def _roots(waiter: int, edges: Mapping[int, Sequence[int]]) -> set[int]:
    roots: set[int] = set()
    seen = {waiter}
    to_look_at = [*edges[waiter]]
    while to_look_at:
        pid = to_look_at.pop()
        if pid in seen:
            continue
        seen.add(pid)
        if pid in edges:
            to_look_at += edges[pid]
        else:
            roots.add(pid)
    return roots or {min(seen)}
