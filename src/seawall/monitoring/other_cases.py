"""The layers around the database: what speaks against each, what clears it, who does it, and what to do about it."""

import math
from dataclasses import replace
from typing import Final

from seawall.monitoring.cases import CORES_TAKEN, CROWD, IN_DATABASE, IN_NODE, Case, Scene
from seawall.monitoring.things import Culprit, Layer
from seawall.monitoring.words import amount, counted, duration, part, size, versus
from seawall.telemetry.segments import Segment

PROBE_SLOW_S: Final = 0.1
DISK_SLOW_S: Final = 0.02
"""Added to each request by the disk: several times what a sync takes on a disk that is well."""

WAITED_MUCH: Final = 0.15
"""Of its time, that a node was ready to run and was not let."""

BUSY_MACHINE: Final = 0.5
FIRST_BYTE_LATE_S: Final = 0.05
DRAIN_SLOW_S: Final = 0.5
CLIENTS_SLOW_S: Final = 0.02
"""Added to each request by waiting for its client: a few packets on a way that is narrow or far."""

RESET_MANY: Final = 5
VANISHED: Final = 0.35
"""Of the usual requests, that come all the same where the rest does not arrive."""

USUAL_LEAST_PER_S: Final = 5.0
"""Where fewer come, that nobody does means nothing."""

NOT_OPENED: Final = 3
TENANT_MUCH: Final = 0.5
TENANT_MORE: Final = 0.25
TENANTS_S: Final = 10.0
"""What accounts asked for is told of so many seconds together (`fleet.top_tenants`)."""

OTHERS_LEAST: Final = 2
TURNED_AWAY_MUCH: Final = 0.02
PRESSED_S: Final = 0.01


def disk(scene: Scene) -> Case:
    """Is there no room, or does it take long?"""
    seen = scene.seen
    refused, errors = seen.count("disk.refused"), seen.count("disk.errors")
    free, database_free = seen.least("disk.free_bytes"), seen.least("database.disk_free_bytes")
    probe_s, usual_probe_s = seen.high("disk.probe_s"), seen.usual("disk.probe_s")
    share = seen.harm.share(Segment.DISK)
    case = Case(
        layer=Layer.DISK,
        segments=frozenset({Segment.DISK}),
        refuses=False,
        evidence=(
            f"part of the added time that is spent with the disk: {part(share)}",
            versus("a small write takes", probe_s, usual_probe_s, duration),
            f"free for blobs: {size(free)}, where the database is: {size(database_free)}",
            f"writes refused for want of space: {amount(refused)}, reads and writes that failed: {amount(errors)}",
        ),
        cleared=f"a small write takes {duration(probe_s)} (usually {duration(usual_probe_s)}), the disk accounts for "
        f"{part(share)} of the added time, and {size(free)} are free",
    )
    blobs_full = refused >= 1 or (free is not None and free <= 0) or "No space left" in scene.disk_trouble
    if blobs_full or scene.database_has_no_room:
        where, left = ("where the blobs are", free) if blobs_full else ("where the database is", database_free)
        return replace(case, segments=frozenset({Segment.DISK, *IN_DATABASE}), refuses=True).charged(
            0.98,
            f"There is no room on the disk {where}: {counted(refused, 'write')} refused for it, {size(left)} left.",
            "Find what grew: `df -h`, `du -xsh /var/lib/seawall/*`; replication slots nobody reads keep PostgreSQL's "
            "log (select slot_name, active from pg_replication_slots;).",
            "Give it more room, or delete objects and run `seawall gc`. Reads go on meanwhile.",
        )
    if errors >= 1 or scene.disk_trouble:
        said = f" The system says: {scene.disk_trouble}." if scene.disk_trouble else ""
        return case.charged(
            0.9,
            f"The disk failed {counted(errors, 'read or write', 'reads and writes')}.{said}",
            "Look at `dmesg` and at the disk's health (`smartctl -a /dev/DISK`); then run `seawall scrub`.",
        )
    in_disk = share >= 0.4 and seen.added_to_each_s(Segment.DISK) >= DISK_SLOW_S
    if in_disk or seen.is_raised("disk.probe_s", by=PROBE_SLOW_S, times=3):
        return case.charged(
            0.9 if in_disk else 0.55,
            f"The disk is slow: {part(share)} of the added time is spent with it; a small write takes "
            f"{duration(probe_s)}, usually {duration(usual_probe_s)}.",
            "See who uses it: `iostat -x 1`, `pidstat -d 1`. A backup, a scrub, a neighbour on the same volume?",
            "A cloud volume may have used up its budget of operations.",
        )
    return case


def network(scene: Scene) -> Case:
    """Does nothing arrive between users and nodes, or between nodes and the database?"""
    seen, harm = scene.seen, scene.seen.harm
    resets, gone = seen.count("clients.reset"), seen.count("clients.gone")
    first_s, usual_first_s = seen.high("clients.first_byte_s"), seen.usual("clients.first_byte_s")
    drain_s, usual_drain_s = seen.high("clients.drain_s"), seen.usual("clients.drain_s")
    again, share = seen.high("tcp.retransmits"), harm.share(Segment.NETWORK)
    case = Case(
        layer=Layer.NETWORK,
        segments=frozenset({Segment.NETWORK}),
        fails=False,
        refuses=False,
        evidence=(
            versus("requests a second", harm.per_s, harm.usual_per_s, amount),
            versus("a new connection's first byte comes after", first_s, usual_first_s, duration),
            versus("clients take for each MiB", drain_s, usual_drain_s, duration),
            f"connections of clients reset: {amount(resets)}; requests whose client went away: {amount(gone)}",
            versus("segments sent again a second", again, seen.usual("tcp.retransmits"), amount),
            f"part of the added time that is spent waiting for clients: {part(share)}",
        ),
        cleared=f"{amount(harm.per_s)} requests a second arrive (usually {amount(harm.usual_per_s)}), {amount(resets)} "
        f"connections were reset, and waiting for clients accounts for {part(share)} of the added time",
    )
    if cut_off := _database_cut_off(scene, case):
        return cut_off
    found: list[tuple[float, str]] = []
    if _vanished(scene):
        rates = f"of {amount(harm.usual_per_s)} requests a second {amount(harm.per_s)} arrive"
        found.append((0.85, f"{rates}, and all is well here"))
    if seen.is_raised("clients.reset", by=RESET_MANY, times=3):
        found.append((0.85, f"{amount(resets)} connections of clients were reset"))
    if seen.is_raised("clients.first_byte_s", by=FIRST_BYTE_LATE_S, times=3):
        late = f"new connections say nothing for {duration(first_s)}, usually {duration(usual_first_s)}"
        found.append((0.85, late))
    if share >= 0.6 and seen.added_to_each_s(Segment.NETWORK) >= CLIENTS_SLOW_S:
        found.append((0.75, f"{part(share)} of the added time is spent waiting for clients"))
    if seen.is_raised("clients.drain_s", by=DRAIN_SLOW_S, times=3):
        found.append((0.7, f"clients take {duration(drain_s)} for each MiB, usually {duration(usual_drain_s)}"))
    if seen.count("tcp.overflows") >= 1:
        found.append((0.6, f"{amount(seen.count('tcp.overflows'))} new connections were dropped: too many waited"))
    if seen.is_raised("tcp.retransmits", by=20, times=5):
        found.append((0.6, f"{amount(again)} segments a second were sent again"))
    if not found:
        return case
    return case.charged(
        min(0.95, max(strength for strength, _ in found) + 0.05 * (len(found) - 1)),
        f"The way between users and nodes: {'; '.join(words for _, words in found)}.",
        "Ask from where users are, and from this machine: curl -sv -o /dev/null http://HOST:9000/",
        "Look at the load balancer, DNS, firewalls and the provider's status; `ss -ti` shows round-trip times.",
    )


def _vanished(scene: Scene) -> bool:
    """Whether far fewer come than usual, and nothing here keeps them."""
    seen, harm = scene.seen, scene.seen.harm
    if harm.usual_per_s is None or harm.usual_per_s < USUAL_LEAST_PER_S or harm.per_s > VANISHED * harm.usual_per_s:
        return False
    is_heard = seen.typical("reads.requests") is not None
    is_idle = (seen.typical("gate.in_flight") or 0.0) <= 2 * (seen.usual("gate.in_flight") or 0.0) + 5
    return is_heard and is_idle and not scene.was_down and harm.failed < 0.05 and not seen.high("pool.rows_waiting")


def _database_cut_off(scene: Scene, case: Case) -> Case | None:
    """Return the case where the database is well, and does not hear from us."""
    seen, sight = scene.seen, scene.sight
    advice = (
        "Between nodes and database: `pg_isready -h HOST -p PORT` from a node; firewalls, security groups, a proxy, "
        "the route. What was changed there?"
    )
    between = replace(case, segments=IN_DATABASE, fails=True, refuses=True)
    if scene.was_down and sight is not None and scene.is_silent and (sight.other_way_answers or not sight.is_local):
        well = (
            "its processes live, and it answers at its own socket"
            if sight.other_way_answers
            else "nobody refuses either, as a machine would on which it ended"
        )
        return replace(
            between,
            evidence=(
                f"it has answered nothing for {duration(sight.answer_s)}, nor refused",
                f"it answers on another way: {_yes(known=sight.other_way_answers)}",
                f"its processes live: {_yes(known=sight.processes_live)}",
            ),
        ).charged(
            0.95 if sight.other_way_answers else 0.8,
            f"Nothing comes back from the database on the way nodes take, for {duration(sight.answer_s)}: {well}.",
            advice,
        )
    failed = seen.count("pool.failed") - seen.count("pool.refused")
    if failed >= NOT_OPENED and not scene.was_down and sight is not None and sight.up:
        return between.charged(
            0.75,
            f"Nodes could not open {counted(failed, 'connection')} to the database, which answers the keeper in "
            f"{duration(seen.high('database.answer_s'))} all the time.",
            advice,
        )
    return None


def processor(scene: Scene) -> Case:
    """Is a node ready to run and not let, or not there at all?"""
    seen = scene.seen
    waited, usual_waited = seen.high("cpu.waited"), seen.usual("cpu.waited")
    lag_s, machine = seen.high("loop.lag_s"), seen.high("cpu.machine")
    up, expected = seen.last("nodes.up"), seen.last("nodes.expected")
    cleared = (
        f"nodes were kept from running for {part(waited)} of the time (usually {part(usual_waited)}), and event loops "
        f"are late by {duration(lag_s)}"
    )
    if machine is not None and machine >= BUSY_MACHINE and (waited or 0.0) < WAITED_MUCH:
        cleared += f"; the machine is busy ({part(machine)}), but not at their cost"
    case = Case(
        layer=Layer.PROCESSOR,
        segments=IN_NODE,
        evidence=(
            versus("part of its time a node was not let run", waited, usual_waited, part),
            versus("an event loop is late by", lag_s, seen.usual("loop.lag_s"), duration),
            versus("cores a node uses", seen.high("cpu.used"), seen.usual("cpu.used"), amount),
            versus("part of the machine in use", machine, seen.usual("cpu.machine"), part),
            versus("part the hypervisor took", seen.high("cpu.stolen"), seen.usual("cpu.stolen"), part),
        ),
        cleared=cleared,
    )
    if up is not None and expected is not None and up < expected:
        return replace(case, segments=frozenset(Segment)).charged(
            0.85,
            f"{amount(up)} of {counted(expected, 'node')} report: the others are dead, or do not run.",
            "`seawall status` says which; look at its process (stopped? out of memory?) and the log.",
        )
    if waited is None or waited < WAITED_MUCH or not seen.is_raised("cpu.waited", by=WAITED_MUCH / 2, times=1.5):
        return case
    strength = 0.6 + 0.3 * min(1.0, waited / (2 * WAITED_MUCH))
    if scene.foreign_cores >= CORES_TAKEN:
        # It is known who takes it, and that is another layer's case.
        cores = amount(seen.high("database.cpu"))
        return replace(
            case,
            cleared=f"nodes were kept from running for {part(waited)} of the time, but by PostgreSQL, which uses "
            f"{cores} cores for statements of others",
        )
    return case.charged(
        strength,
        f"Nodes do not get the processor: for {part(waited)} of the time one was ready to run and was not let, usually "
        f"{part(usual_waited)}; event loops are late by {duration(lag_s)}.",
        "See who has it: `top`, `pidstat 1`; on a virtual machine look at steal time (%st).",
        "Give nodes cores of their own (CPUAffinity= in systemd, CPU requests in Kubernetes), or move what competes.",
    )


def tenant(scene: Scene) -> Case:
    """Does one account take what is for all?"""
    seen, harm = scene.seen, scene.seen.harm
    share, usual = seen.high("tenant.share"), seen.usual("tenant.share")
    # Only the largest are told of: the others' requests are in the fleet's.
    asked = max(sum(one.requests for one in scene.tenants), harm.per_s * TENANTS_S)
    refused = sum(one.refused for one in scene.tenants)
    first = max(scene.tenants, key=lambda one: one.requests, default=None)
    of_asked = first.requests / asked if first is not None and asked else 0.0
    of_refused = first.refused / refused if first is not None and refused else 0.0
    case = Case(
        layer=Layer.TENANT,
        segments=IN_NODE | {Segment.ADMISSION},
        evidence=(
            versus("part of all work that the largest account takes", share, usual, part),
            f"the one that asks most makes {part(of_asked)} of the requests, {part(of_refused)} of the refused ones",
            f"requests refused: {part(harm.refused)}, usually {part(harm.usual_refused)}",
        ),
        cleared=f"the largest account takes {part(share)} of the work (usually {part(usual)}), and the one that asks "
        f"most makes {part(of_asked)} of the requests",
    )
    # Who always takes most is refused most, whatever is the matter. And where nothing is known to be usual, nobody can
    # say that it is more.
    takes_more = usual is not None and (share or 0.0) >= usual + TENANT_MORE
    asks_more = (
        usual is not None
        and first is not None
        and (of_asked >= usual + TENANT_MORE or first.requests / TENANTS_S >= CROWD * (harm.usual_per_s or math.inf))
    )
    takes_much = max(share or 0.0, of_asked) >= TENANT_MUCH and (
        takes_more or (asks_more and of_refused >= TENANT_MUCH)
    )
    others = sum(one.requests >= 1 for one in scene.tenants) - 1
    if first is None or others < OTHERS_LEAST or not takes_much or not _is_pressed(scene):
        return case
    culprit = first if of_asked >= (share or 0.0) else max(scene.tenants, key=lambda one: one.work_s)
    own = f"; {part(culprit.refused / refused)} of the refusals are its own" if refused else ""
    return case.charged(
        0.95,
        f"Account {culprit.number} makes {part(culprit.requests / asked if asked else None)} of the requests and takes "
        f"{part(share)} of the work, of which the largest usually takes {part(usual)}{own}.",
        f"Ask its owner what has changed: `seawall user list` says whose account {culprit.number} is.",
        "It is held to its share. If others suffer all the same, take its key away: `seawall user key NAME`.",
        culprit=Culprit(kind="tenant", name=str(culprit.number), number=culprit.number),
    )


def demand(scene: Scene) -> Case:
    """Do many ask for more than can be done?"""
    seen, harm = scene.seen, scene.seen.harm
    usual, pace = harm.usual_per_s, seen.last("gate.pace_per_s")
    users = seen.high("users.seen")
    gate = f"the gate lets in {amount(pace)} a second" if pace is not None else "the gate turns nobody away"
    case = Case(
        layer=Layer.DEMAND,
        segments=IN_NODE | {Segment.ADMISSION},
        evidence=(
            versus("requests a second", harm.per_s, usual, amount),
            f"requests refused: {part(harm.refused)}, usually {part(harm.usual_refused)}",
            gate,
            versus("users in this minute", users, seen.usual("users.seen"), amount),
        ),
        cleared=f"{amount(harm.per_s)} requests a second, usually {amount(usual)}; {gate}",
    )
    more = usual is not None and harm.per_s >= CROWD * max(usual, USUAL_LEAST_PER_S)
    is_refusing = harm.more_refused >= TURNED_AWAY_MUCH
    is_queueing = (seen.high("gate.level") or 0.0) >= 1
    if not (_is_pressed(scene) and ((more and (is_refusing or is_queueing)) or (is_refusing and pace is not None))):
        return case
    times = f"{harm.per_s / usual:.1f} times the usual {amount(usual)}" if usual else "what is usual is not known"
    return case.charged(
        0.8 if more and is_refusing else 0.65 if more else 0.5,
        f"More is asked than can be done: {amount(harm.per_s)} requests a second ({times}), by {amount(users)} users; "
        f"{part(harm.refused)} are refused.",
        "It serves what it can, and recovers by itself. More nodes help where the database is not what is scarce: see "
        "`seawall_gate_level`.",
        "Clients that ask again at once make it worse: docs/surge.md.",
    )


def _is_pressed(scene: Scene) -> bool:
    """Whether users notice, in any way."""
    harm = scene.seen.harm
    turned_away = max(harm.more_refused, harm.more_failed)
    return turned_away >= TURNED_AWAY_MUCH or harm.added_per_request_s >= PRESSED_S


def _yes(*, known: bool | None) -> str:
    return "not known" if known is None else "yes" if known else "no"
