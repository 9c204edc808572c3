"""Judge whether what several clients saw could have come from one copy of the data.

A history is linearizable when every operation can be given one moment between its call and its answer
such that, in the order of those moments, each get sees what the last put or delete left. Keys are
independent, so each is judged alone: a history is linearizable exactly when it is so for every key.

This is the search of Wing and Gong, event by event as Lowe does it: walk through calls and answers in
order, hold every configuration the key may be in, let an operation take effect no earlier than an answer
demands, and remember configurations rather than the ways that led to them. Between two moments at which
nobody waits only the possible values remain. Three facts about registers keep the configurations few:

- A get that is under way while the key holds what it will answer may take effect at once: it changes nothing.
- When a value is written, whatever was under way may have taken effect just before, seen by nobody but gets
  under way as well. A configuration notes that these are *coverable*; whether they were is decided when one
  of them is answered. So the order of writes that nobody could tell apart is never enumerated.
- Of two writes of the same value under way, the one answered first is used first: the other can do all it could.

Nothing here reads a clock, a server or a file.

Sources: Wing and Gong, "Testing and Verifying Concurrent Objects", Journal of Parallel and Distributed
Computing 17, 1993. Lowe, "Testing for Linearizability", Concurrency and Computation 29(4), 2017.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Kind = Literal["put", "get", "delete"]

CONFIGURATIONS_MAX: Final = 200_000
"""Held at once. Real histories need a few dozen; far more would take hours, and better say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of one client. Times are of one monotonic clock.

    `value` is what was put, or what a get saw; None is for missing. `answered_ns` is None when the client
    lost the answer: a write may then take effect at any time after its call, or never. Calls that
    certainly had no effect do not belong in a history.
    """

    kind: Kind
    key: str
    value: Hashable = None
    invoked_ns: int
    answered_ns: int | None
    client: str = ""

    def __post_init__(self) -> None:
        if self.answered_ns is not None and self.answered_ns < self.invoked_ns:
            raise ValueError(f"{self} was answered before it was asked")
        if self.kind == "put" and self.value is None:
            raise ValueError(f"{self} puts nothing, which is what delete is for")
        if self.kind == "delete" and self.value is not None:
            raise ValueError(f"{self} deletes and has a value")

    @property
    def writes(self) -> bool:
        """Whether it leaves `value` behind, rather than seeing it."""
        return self.kind != "get"

    def __str__(self) -> str:
        said = {"put": f"put {self.value!r}", "delete": "delete", "get": f"get: {self.value!r}"}[self.kind]
        until = "?" if self.answered_ns is None else f"{self.answered_ns / 1e6:.3f}"
        return f"{self.client or 'somebody'} {said} [{self.invoked_ns / 1e6:.3f} … {until} ms]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """An answer that no order of moments explains.

    Everything answered before `operation` can be explained. `possible` are the values the key could have
    held at its answer, as far as others knew; `around` are the operations of the key that were under way
    at some time during it, itself excluded.
    """

    operation: Operation
    possible: frozenset[Hashable]
    around: tuple[Operation, ...]

    def __str__(self) -> str:
        values = ", ".join(sorted(repr(value) for value in self.possible))
        lines = [
            f"key {self.operation.key!r}: {self.operation} cannot be explained; it held one of {values}; meanwhile"
        ]
        return "\n    ".join([*lines, *(str(operation) for operation in self.around)])


def violations(history: Iterable[Operation]) -> list[Violation]:
    """Return the first unexplained answer of every key that has one; none: the history is linearizable.

    Every key is missing in the beginning. Operations may come in any order.

    Raises:
        RuntimeError: more configurations than can be held, as when very many equal writes are under way at once.
    """
    by_key: Mapping[str, list[Operation]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    found = (violation(operations) for _, operations in sorted(by_key.items()))
    return [one for one in found if one is not None]


def is_linearizable(history: Iterable[Operation]) -> bool:
    """Return whether one copy of the data could have given these answers."""
    return not violations(history)


def violation(operations: Sequence[Operation]) -> Violation | None:
    """Return the first unexplained answer of one key; the operations are all its own.

    Raises:
        RuntimeError: see `violations`.
    """
    under_way = _UnderWay()
    configurations = {_Configuration(value=None, taken=0, coverable=0)}
    for at_call, operation in _events(_worth_judging(operations)):
        if at_call:
            bit = under_way.add(operation)
            configurations = {one.invoked(operation, bit) for one in configurations}
        else:
            bit = under_way.bit_of(operation)
            after = {left for one in configurations for left in one.answered(operation, bit, under_way)}
            if not after:
                possible = frozenset(one.value for one in configurations)
                return Violation(operation=operation, possible=possible, around=_around(operation, operations))
            under_way.remove(operation)
            configurations = _undominated(after, writes=under_way.writes)
        if len(configurations) > CONFIGURATIONS_MAX:
            raise RuntimeError(f"over {CONFIGURATIONS_MAX} configurations at {operation}: shorten the history")
    return None


class _Configuration(NamedTuple):
    """One way things may stand. Sets are bits, one for each operation under way.

    `taken` have had their effect and only wait for their answer. `coverable` have not, but may be said to
    have had it just before the present value was written.
    """

    value: Hashable
    taken: int
    coverable: int

    def invoked(self, operation: Operation, bit: int) -> "_Configuration":
        """Return how things stand after a call."""
        if not operation.writes and operation.value == self.value:
            return self._replace(taken=self.taken | bit)
        return self

    def answered(self, operation: Operation, bit: int, under_way: "_UnderWay") -> Iterator["_Configuration"]:
        """Yield the ways things may stand after an answer; none if this one does not explain it."""
        if self.taken & bit:
            yield self._replace(taken=self.taken & ~bit)
            return
        untaken = under_way.writes_of(operation.value) & ~self.taken
        if operation.writes:
            now, covered = bit, bit & self.coverable
        else:
            now = under_way.first_answered(untaken)
            covered = under_way.first_answered(untaken & self.coverable) if self.coverable & bit else 0
        for write, after in ((now, self._written_now), (covered, self._covered)):
            if write:
                one = after(write, operation.value, under_way)
                yield one._replace(taken=one.taken & ~bit, coverable=one.coverable & ~bit)

    def _written_now(self, write: int, value: Hashable, under_way: "_UnderWay") -> "_Configuration":
        taken = self.taken | write | under_way.gets_of(value)
        return _Configuration(value, taken, under_way.all & ~taken)

    def _covered(self, write: int, value: Hashable, under_way: "_UnderWay") -> "_Configuration":
        taken = self.taken | write | (under_way.gets_of(value) & self.coverable)
        return _Configuration(self.value, taken, self.coverable & ~taken)

    def dominates(self, other: "_Configuration", *, writes: int) -> bool:
        """Return whether everything that can follow the other can follow this one; both hold the same value."""
        gets = ~writes
        return (
            not other.taken & gets & ~self.taken
            and not other.coverable & gets & ~(self.taken | self.coverable)
            and not other.coverable & writes & ~self.coverable
            and not other.taken & writes & ~(self.taken | self.coverable)
            and not self.taken & writes & ~other.taken
        )


class _UnderWay:
    """The operations called and not yet answered. State: which bit stands for which."""

    def __init__(self) -> None:
        self.all = 0
        self.writes = 0
        self._bits: dict[int, int] = {}
        self._by_value: dict[tuple[bool, Hashable], int] = defaultdict(int)
        self._answered_ns: dict[int, float] = {}

    def add(self, operation: Operation) -> int:
        """Give a called operation a bit, the lowest that is free."""
        bit = ~self.all & (self.all + 1)
        self._bits[id(operation)] = bit
        self._answered_ns[bit] = float("inf") if operation.answered_ns is None else operation.answered_ns
        self._set(operation, bit)
        return bit

    def bit_of(self, operation: Operation) -> int:
        """Return the bit of an operation under way."""
        return self._bits[id(operation)]

    def remove(self, operation: Operation) -> None:
        """Forget an answered operation; its bit is free again."""
        bit = self._bits.pop(id(operation))
        del self._answered_ns[bit]
        self._set(operation, bit)

    def writes_of(self, value: Hashable) -> int:
        """Return the writes that leave this value."""
        return self._by_value.get((True, value), 0)

    def gets_of(self, value: Hashable) -> int:
        """Return the gets that will answer this value."""
        return self._by_value.get((False, value), 0)

    def first_answered(self, bits: int) -> int:
        """Return the one of several that is answered first, or nothing of nothing."""
        if not bits & (bits - 1):
            return bits
        return min((bit for bit in _each(bits)), key=self._answered_ns.__getitem__)

    def _set(self, operation: Operation, bit: int) -> None:
        self.all ^= bit
        self.writes ^= bit if operation.writes else 0
        place = (operation.writes, operation.value)
        self._by_value[place] ^= bit
        if not self._by_value[place]:
            del self._by_value[place]


def _worth_judging(operations: Sequence[Operation]) -> list[Operation]:
    """Leave out what constrains nothing: lost gets, and lost writes of values that nobody saw."""
    seen = {
        operation.value for operation in operations if operation.kind == "get" and operation.answered_ns is not None
    }
    return [
        operation
        for operation in operations
        if operation.answered_ns is not None or (operation.writes and operation.value in seen)
    ]


def _events(operations: Sequence[Operation]) -> list[tuple[bool, Operation]]:
    """Return calls (True) and answers (False) in order; of one instant calls first, so that a tie accuses nobody."""
    times = [(operation.invoked_ns, 0, True, operation) for operation in operations]
    times += [
        (operation.answered_ns, 1, False, operation) for operation in operations if operation.answered_ns is not None
    ]
    times.sort(key=lambda event: event[:2])
    return [(at_call, operation) for _, _, at_call, operation in times]


def _undominated(configurations: set[_Configuration], *, writes: int) -> set[_Configuration]:
    """Leave out configurations that another makes superfluous."""
    by_value: Mapping[Hashable, list[_Configuration]] = defaultdict(list)
    for one in configurations:
        by_value[one.value].append(one)
    kept: set[_Configuration] = set()
    for alike in by_value.values():
        front: list[_Configuration] = []
        for one in alike:
            if not any(other.dominates(one, writes=writes) for other in front):
                front = [other for other in front if not one.dominates(other, writes=writes)]
                front.append(one)
        kept.update(front)
    return kept


def _around(operation: Operation, operations: Sequence[Operation]) -> tuple[Operation, ...]:
    assert operation.answered_ns is not None
    return tuple(
        other
        for other in sorted(operations, key=lambda one: one.invoked_ns)
        if other is not operation
        and other.invoked_ns <= operation.answered_ns
        and (other.answered_ns is None or other.answered_ns >= operation.invoked_ns)
    )


def _each(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest
        bits ^= lowest
