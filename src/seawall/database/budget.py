"""Decide how many connections the fleet may have on one server, and how many of them each node.

A surge must never end in "too many clients": that answer reaches everybody, the operator's `psql` too.
So the fleet knows beforehand what it may open, divides it among its nodes, and refuses at start what
cannot work. Decisions only: this module knows no clock, no network and no SQL; `leases` acts on it.

Three rules keep the sum of what is granted below the allowance at every moment:
    a node grows only into what nobody has been granted, however unfair the division is just then;
    a node's grant counts in full until it says that it has closed what it was asked to close;
    what is open without a lease (of a node that died, or was paused) counts for as long as it is open.

What a node wants follows what it does (`useful`): a fleet in which everybody wants everything has idle
nodes keep what the busy ones lack.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from typing import Final

from seawall.errors import Misconfigured

FLOOR: Final = 2
"""One connection to keep the lease with and one to work with. With fewer a node is not ready."""

HEADROOM_PERCENT: Final = 10
"""Of `max_connections`: for those who come between two looks at the server, and for the operator."""


SPARE_DIVISOR: Final = 4
"""One to spare for so many in use: a burst between two looks should find a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server lets the service's role have.

    `reserved` counts both kinds: for superusers, and for roles that may use reserved connections. The
    service may, but plans without them, so that they are there when a plan fails. `role_limit` is None
    where the role has no `CONNECTION LIMIT`.
    """

    max_connections: int
    reserved: int
    role: str
    role_limit: int | None
    role_is_superuser: bool = False
    sees_everybody: bool = True

    @property
    def usable(self) -> int:
        """How many connections ordinary roles may have together."""
        return max(0, self.max_connections - self.reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Who is connected now.

    Ours are those of our role and database that call themselves `seawall NAME …`, by that name; `asking`
    are those among them that ask for leases. The rest is foreign, also where it has our role.
    """

    foreign: int = 0
    foreign_of_role: int = 0
    working: Mapping[str, int]
    asking: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one incarnation of a node wants, and what it may have open at this moment.

    Both count all its connections to this server, the one that keeps the lease included.
    """

    node: str
    demand: int
    granted: int
    weight: int = 1

    def __post_init__(self) -> None:
        if self.demand < 0 or self.granted < 0 or self.weight < 1:
            raise ValueError(f"nobody can claim {self.demand} by weight {self.weight} and have {self.granted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one node is told: its fair share, and what it may have open from now on.

    Where `granted` is more than `share`, the node shall close connections and say so; where it is less,
    others have been told that, and the node comes back soon. `free` is what was left for it beside the grants
    of the others: less than `granted` only where the node has open what nobody granted it.
    """

    share: int
    granted: int
    free: int


def useful(*, size: int, lent: int, waiting: int, waited: bool, least: int, most: int) -> int:
    """Return how many connections a pool could use, going by what it did since it was last asked.

    Args:
        size: how many it may have now.
        lent: how many were out at the most, at one time.
        waiting: how many tasks wait for one now.
        waited: whether any task had to wait. How many more would have come is not known: then it asks for twice
            as many, and is asked again soon.
        least: it never wants fewer.
        most: it never wants more.

    >>> useful(size=8, lent=8, waiting=0, waited=False, least=2, most=20)
    10
    >>> useful(size=8, lent=8, waiting=1, waited=True, least=2, most=20)
    16
    """
    busy = lent + waiting
    wanted = busy + -(-busy // SPARE_DIVISOR)
    if waited or waiting:
        wanted = max(wanted, 2 * size)
    return min(most, max(least, wanted))


def allowance(limits: Limits, *, foreign: int = 0, foreign_of_role: int = 0) -> int:
    """Return how many connections the fleet may have on a server: the least of what binds it.

    Args:
        limits: the server's and the role's.
        foreign: connections of other programs, of whatever role, seen now.
        foreign_of_role: those among them that have the service's role, and count towards its limit.

    >>> limits = Limits(max_connections=100, reserved=8, role="seawall", role_limit=None)
    >>> allowance(limits), allowance(limits, foreign=10), allowance(limits, foreign=20)
    (82, 82, 72)
    """
    bounds = [limits.usable - _headroom(limits.max_connections), limits.usable - foreign]
    if limits.role_limit is not None:
        bounds.append(limits.role_limit - foreign_of_role)
    return max(0, min(bounds))


def shares(claims: Sequence[Claim], *, allowance: int, floor: int = FLOOR) -> list[int]:
    """Divide the allowance, by weighted max-min fairness in whole connections; return it in order of the claims.

    First everybody gets the floor, wanted or not: one connection each, then the second. Where there are not
    enough, those at the front get it, so claims should stand in the order in which their nodes came. Each of the
    rest goes to whoever has the least for its weight and wants more; on a tie, to whoever stands in front.

    Nobody gets more than both its demand and the floor. What nobody wants is not given to anybody: it stays
    free for whoever comes next, who would otherwise wait until others have closed their connections.

    >>> claims = [Claim(node=name, demand=wanted, granted=0) for name, wanted in (("a", 1), ("b", 4), ("c", 9))]
    >>> shares(claims, allowance=12)
    [2, 4, 6]

    Source: progressive filling in Bertsekas and Gallager, "Data Networks", 2nd edition, 1992, section 6.5.2.
    """
    given = [0] * len(claims)
    left = allowance
    for _ in range(floor):
        for place in range(min(left, len(claims))):
            given[place] += 1
        left -= min(left, len(claims))
    wanting = [
        (Fraction(given[place], claim.weight), place)
        for place, claim in enumerate(claims)
        if claim.demand > given[place]
    ]
    heapq.heapify(wanting)
    for _ in range(left):
        if not wanting:
            break
        _, place = wanting[0]
        given[place] += 1
        if given[place] < claims[place].demand:
            heapq.heapreplace(wanting, (Fraction(given[place], claims[place].weight), place))
        else:
            heapq.heappop(wanting)
    return given


def room(limits: Limits, activity: Activity, claims: Sequence[Claim], *, nodes_max: int, beside: int = 1) -> int:
    """Return how many connections may be granted now, all nodes together.

    That is the allowance, less what of ours is open beyond any grant (the keeper's; those of a node whose lease
    ended while it was paused), less those `beside` the pool for each node that is not there yet: it must connect
    before it can ask. The last holds for what is planned: where strangers have taken more than was left for them, what
    our nodes have open stays theirs. Else whoever takes all that is free would be given what is in use as well, one
    after the other (an administrator on a reserved connection is enough for it to be one too many).
    """
    granted: dict[str, int] = {}
    for claim in claims:
        granted[claim.node] = granted.get(claim.node, 0) + claim.granted
    joining, strays, held = 0, 0, 0
    for node in activity.working.keys() | activity.asking.keys():
        working, asking = activity.working.get(node, 0), activity.asking.get(node, 0)
        if node in granted:
            strays += max(0, working + asking - granted[node])
            held += min(working + asking, granted[node])
        else:
            about_to_ask = min(working + asking, beside * asking)
            strays += working + asking - about_to_ask
            joining += about_to_ask
    planned = allowance(limits) - max(joining, beside * (nodes_max - len(claims)), 0)
    left = allowance(limits, foreign=activity.foreign, foreign_of_role=activity.foreign_of_role) - joining
    return max(0, min(planned - strays, max(left - strays, held)))


def decide(
    limits: Limits,
    activity: Activity,
    claims: Sequence[Claim],
    *,
    mine: int,
    nodes_max: int,
    floor: int = FLOOR,
    beside: int = 1,
) -> Decision:
    """Return what a node may have, given what all are known to have.

    Nobody is made to close anything here: a node whose share fell keeps its grant until it has done so.

    Args:
        limits: the server's and the role's.
        activity: who is connected.
        claims: of every node whose lease has not ended, this one among them, in the order in which they came.
        mine: the place among `claims` of the node that asks.
        nodes_max: how many nodes there may be at the most.
        floor: what every node needs.
        beside: how many of those it opens before, and beside, the ones it works with.
    """
    there = room(limits, activity, claims, nodes_max=nodes_max, beside=beside)
    share = shares(claims, allowance=there, floor=floor)[mine]
    free = there - sum(claim.granted for place, claim in enumerate(claims) if place != mine)
    return Decision(share=share, granted=max(claims[mine].granted, min(share, free)), free=free)


def check(limits: Limits, *, nodes_max: int, keeper_connections: int = 0, floor: int = FLOOR) -> None:
    """Refuse at start what could exhaust the server, or starve a node.

    Args:
        limits: the server's and the role's.
        nodes_max: how many nodes there may be at the most.
        keeper_connections: how many the keeper and commands open beside them, without a lease.
        floor: what every node needs.

    Raises:
        Misconfigured: it cannot work; the sentence has the numbers, and what to change.
    """
    role, usable = limits.role, limits.usable
    if limits.role_is_superuser:
        raise Misconfigured(
            f"The database role {role} is a superuser, whom no connection limit binds: give Seawall a role of its own."
        )
    if not limits.sees_everybody:
        raise Misconfigured(
            f"The database role {role} cannot see the connections of others, and so cannot make room for them: "
            f"grant pg_monitor to {role}."
        )
    needed = nodes_max * floor + keeper_connections
    offered = max(0, usable - _headroom(limits.max_connections))
    if needed > offered:
        enough = next(n for n in count(limits.max_connections) if n - limits.reserved - _headroom(n) >= needed)
        fitting = max(0, (offered - keeper_connections) // floor)
        raise Misconfigured(
            f"{nodes_max} nodes (one of them to replace another) with at least {floor} connections each and "
            f"{keeper_connections} beside them need "
            f"{needed}, but of max_connections = {limits.max_connections} only {offered} are left for Seawall "
            f"({limits.reserved} are reserved, {HEADROOM_PERCENT} % are headroom): set max_connections to {enough}, "
            f"or run at most {fitting} nodes."
        )
    remedy = f"alter role {role} connection limit {usable}."
    if limits.role_limit is None:
        raise Misconfigured(
            f"The database role {role} has no connection limit, so a mistake could take every connection of the "
            f"server: {remedy}"
        )
    if limits.role_limit > usable:
        raise Misconfigured(
            f"The database role {role} may open {limits.role_limit} connections, but the server has only {usable} "
            f"that are not reserved: {remedy}"
        )
    if limits.role_limit < needed:
        raise Misconfigured(
            f"The database role {role} may open only {limits.role_limit} connections, but {nodes_max} nodes and what "
            f"runs beside them need {needed}: {remedy}"
        )


def _headroom(max_connections: int) -> int:
    return -(-max_connections * HEADROOM_PERCENT // 100)
