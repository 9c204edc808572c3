"""What monitoring speaks of: layers, alerts, diagnoses, actions. Values that can be written down and read again.

Times are on the wall clock, in seconds since 1970, since they are told to people and outlive the process.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


class Layer(StrEnum):
    """Where a diagnosis can look for the cause."""

    CONNECTIONS = "connections"
    """Nobody gets a connection to the database, or too few."""
    STATEMENTS = "statements"
    """The database takes long to do what it is asked."""
    LOCKS = "locks"
    """Somebody waits for somebody else in the database."""
    DATABASE = "database"
    """It does not answer."""
    REPLICA = "replica"
    DISK = "disk"
    NETWORK = "network"
    PROCESSOR = "processor"
    """A node does not get the processor."""
    TENANT = "tenant"
    """One of those who are served takes what is for all."""
    DEMAND = "demand"
    """More is asked than can be done, by many."""


class Severity(StrEnum):
    """Whether somebody has to get up."""

    PAGE = "page"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An objective is at risk, or a signal is not what it was.

    `name` says which (`availability`, `latency`, `signal:disk.probe_s`), `rule` which of its rules fired (`60s/10s`).
    `began_s` is where the trouble begins in what was measured, `fired_s` when it was noticed. `observed` and
    `threshold` are in the rule's own unit, which `reason` names in a sentence.
    """

    name: str
    severity: Severity
    rule: str
    began_s: float
    fired_s: float
    observed: float
    threshold: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledOut:
    """A layer that is innocent, and the numbers that clear it."""

    layer: Layer
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """Who does it, where that is known: what mitigation acts upon.

    `kind` is `session` (of the database: `pid` is its process, `started_s` when its connection began, so that a number
    used again is not mistaken for it), `tenant` (`number`), `replica` or `node` (`name`).
    """

    kind: str
    name: str
    number: int = 0
    started_s: float = 0.0
    is_ours: bool = False
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Why it is so, as far as the numbers tell. `suspect` None: nothing explains it, which is an answer.

    `share` is the part of the added time, or of the added failures, that the suspect accounts for, 0 to 1.
    """

    at_s: float
    suspect: Layer | None
    share: float | None
    mechanism: str
    evidence: tuple[str, ...]
    ruled_out: tuple[RuledOut, ...]
    advice: tuple[str, ...]
    culprit: Culprit | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `json.dumps` can write."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return the diagnosis that was written."""
        return cls(
            at_s=found["at_s"],
            suspect=None if found["suspect"] is None else Layer(found["suspect"]),
            share=found["share"],
            mechanism=found["mechanism"],
            evidence=tuple(found["evidence"]),
            ruled_out=tuple(RuledOut(layer=Layer(one["layer"]), reason=one["reason"]) for one in found["ruled_out"]),
            advice=tuple(found["advice"]),
            culprit=None if found["culprit"] is None else Culprit(**found["culprit"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that was done about it, by the service itself. `before` and `after` are what was measured."""

    name: str
    target: str
    reason: str
    at_s: float
    before: Mapping[str, float]
    after: Mapping[str, float]
    undone_s: float | None = None
