"""The database's layers: what speaks against each, what clears it, who does it, and what to do about it.

Each looks for a mechanism, in numbers of its own: that statements took longer is the common symptom of all of them and
proves nothing alone.
"""

from dataclasses import replace
from typing import Final

from seawall.monitoring.cases import CORES_TAKEN, CROWD, IN_DATABASE, IN_NODE, Case, Scene
from seawall.monitoring.database_sight import DatabaseSight, Session, Trouble
from seawall.monitoring.things import Culprit, Layer
from seawall.monitoring.words import amount, counted, duration, part, versus
from seawall.telemetry.segments import Segment

LOCK_WAIT_S: Final = 0.5
"""A shorter wait for a lock is the ordinary course of things: writers of one bucket wait for each other."""

LOCK_WAIT_LONG_S: Final = 2.0

STATEMENT_LONG_S: Final = 3.0
"""Ours take milliseconds, and a report of others is nobody's business before it has run for so long."""

SLOWER_S: Final = 0.01
"""Added to a request, on the mean of all: what only began or has grown cold costs less."""

REPLICA_LATE_S: Final = 5.0
STORM_PER_S: Final = 10.0
"""A pool opens a connection now and then, and some at once after a restart; not so many each second."""

BUSY: Final = 0.9
BUSY_USUALLY: Final = 0.75
OPENED_PER_REQUEST: Final = 0.25
"""Nodes keep theirs, and open next to none for a thousand requests."""

HELD_SHARE: Final = 0.2
"""Of the server's connections, that one program holds before it is named."""

SERVICE: Final = "seawall "

WHO_HOLDS: Final = (
    "See who holds them: select application_name, usename, state, count(*) from pg_stat_activity group by 1, 2, 3 "
    "order by 4 desc;"
)


def connections(scene: Scene) -> Case:
    """Are there none left on the server, or none free in the nodes while statements take no longer?"""
    seen, sight = scene.seen, scene.sight
    used, most = seen.lately("database.connections"), seen.last("database.connections_max")
    busy, refused = seen.high("pool.busy"), seen.count("pool.refused")
    case = Case(
        layer=Layer.CONNECTIONS,
        segments=IN_DATABASE,
        evidence=(
            versus("connections the server has", used, seen.usual("database.connections"), amount),
            f"connections it accepts: {amount(most)}{_of_role(sight)}",
            f"connections it refused to nodes: {amount(refused)}",
            versus("connections opened a second", seen.high("database.opened"), seen.usual("database.opened"), amount),
            versus("part of a node's own connections in use", busy, seen.usual("pool.busy"), part),
        ),
        cleared=f"{amount(used)} of {amount(most)} connections of the server are in use, {amount(refused)} were "
        f"refused, and a node uses {part(busy)} of its own",
    )
    if _is_full(scene) or refused >= 1:
        culprit = _holder(sight, used or 0.0)
        who = "our own nodes hold them" if culprit is None else _held_by(culprit)
        return case.charged(
            0.97 if _is_full(scene) else 0.7,
            f"The server has no connection left: {amount(used)} of {amount(most)} are in use, and {who}.",
            WHO_HOLDS,
            *_against(culprit),
            culprit=culprit,
        )
    by_nodes, by_all = seen.typical("pool.opened") or 0.0, seen.typical("database.opened") or 0.0
    if max(by_nodes, by_all) >= max(STORM_PER_S, OPENED_PER_REQUEST * seen.harm.per_s):
        # To start processes takes the processors: everything takes longer, not only what waits for them.
        return replace(case, segments=IN_NODE).charged(
            0.95,
            f"Connections are not kept: {amount(max(by_nodes, by_all))} a second are opened (usually "
            f"{amount(seen.usual('database.opened'))}), {amount(by_nodes)} of them by nodes, for "
            f"{amount(seen.harm.per_s)} requests. Each is a process for the server to start; it uses "
            f"{amount(seen.high('database.cpu'))} cores, and has {amount(used)} of {amount(most)} connections.",
            "Have whoever opens them keep them, and wait for one: nodes' pool does, unless it is switched off; others "
            "may need a PgBouncer.",
            WHO_HOLDS,
            culprit=_holder(sight, used or 0.0),
        )
    size, usual_size = seen.typical("pool.size"), seen.usual("pool.size")
    has_shrunk = size is not None and size < 0.7 * (usual_size or 0.0)
    without = (seen.high("pool.without_lease") or 0.0) >= 1
    is_busy = busy is not None and busy >= BUSY and (seen.usual("pool.busy") or 0.0) < BUSY_USUALLY
    is_flat = seen.harm.share(Segment.DATABASE) <= 0.3
    # That there are fewer is nothing by itself: who needs few has few.
    if scene.was_down or not (without or (is_busy and (is_flat or has_shrunk))):
        return case
    is_demand = seen.harm.per_s >= CROWD * (seen.harm.usual_per_s or 0.0) > 0
    return case.charged(
        0.85 if without or has_shrunk else 0.4 if is_demand else 0.7,
        f"Nodes have too few connections: {part(busy)} are in use of {amount(size)} (usually {amount(usual_size)}), "
        f"while statements take {part(seen.harm.share(Segment.DATABASE))} of the added time.",
        f"One is held for {duration(seen.high('pool.longest_hold_s'))}: `seawall status --json` says by which query "
        "and tenant.",
        "Give nodes more (SEAWALL_DATABASE_SPARE_CONNECTIONS), as far as the server has them.",
    )


def locks(scene: Scene) -> Case:
    """Does somebody wait for a lock, and for whom?"""
    seen, sight = scene.seen, scene.sight
    waiters, waited_s = seen.lately("database.lock_waiters"), seen.lately("database.lock_wait_s")
    idle_s = seen.lately("database.idle_in_transaction_s") or 0.0
    cleared = f"{counted(waiters, 'session waits', 'sessions wait')} for a lock"
    if waiters:
        cleared += f", for {duration(waited_s)} at the most"
    elif idle_s >= 1:
        cleared += f"; one has been idle in a transaction for {duration(idle_s)}, and nobody waits for it"
    case = Case(
        layer=Layer.LOCKS,
        segments=IN_DATABASE,
        evidence=(
            versus("sessions that wait for a lock", waiters, seen.usual("database.lock_waiters"), amount),
            versus("the longest has waited", waited_s, seen.usual("database.lock_wait_s"), duration),
            versus("rows waiting for a batch", seen.high("pool.rows_waiting"), seen.usual("pool.rows_waiting"), amount),
        ),
        cleared=cleared,
    )
    if not waiters or waited_s is None or not seen.is_raised("database.lock_wait_s", by=LOCK_WAIT_S, is_now=waited_s):
        return case
    strength = 0.55 + 0.4 * min(1.0, waited_s / LOCK_WAIT_LONG_S)
    wait = f"{counted(waiters, 'session waits', 'sessions wait')} for a lock, for {duration(waited_s)} at the most"
    blocker = next(iter(sight.blockers), None) if sight is not None and sight.up else None
    if blocker is None:
        return case.charged(
            strength - 0.1,
            f"{wait}.",
            "See who blocks whom: select pid, pg_blocking_pids(pid), query from pg_stat_activity; (0 is a prepared "
            "transaction: select * from pg_prepared_xacts;)",
        )
    stop = "terminate" if blocker.is_idle_in_transaction else "cancel"
    return case.charged(
        strength,
        f"{wait}, behind {blocker.who}, which has been {blocker.state} for {duration(blocker.for_s)}: {blocker.doing}",
        f"Have its owner commit or roll back, or end it: select pg_{stop}_backend({blocker.pid});",
        "Change tables with `set lock_timeout = '2s'`, in a transaction that ends at once.",
        culprit=culprit_of(blocker),
    )


def statements(scene: Scene) -> Case:
    """Do statements take longer, and is it the database's processors that are taken?"""
    seen, sight = scene.seen, scene.sight
    cores, usual_cores = seen.high("database.cpu"), seen.usual("database.cpu")
    foreign, share = seen.high("database.active_foreign"), seen.harm.share(Segment.DATABASE)
    longest_s = seen.lately("database.longest_statement_s")
    saturated = scene.foreign_cores >= CORES_TAKEN
    uses = "" if cores is None else f"; PostgreSQL uses {amount(cores)} cores, usually {amount(usual_cores)}"
    case = Case(
        layer=Layer.STATEMENTS,
        segments=IN_NODE if saturated else IN_DATABASE,
        evidence=(
            f"part of the added time that is spent in statements: {part(share)}",
            versus("cores PostgreSQL uses", cores, usual_cores, amount),
            versus("statements of others that run", foreign, seen.usual("database.active_foreign"), amount),
            versus("the longest runs for", longest_s, seen.usual("database.longest_statement_s"), duration),
        ),
        cleared=f"statements account for {part(share)} of the added time, and "
        f"{counted(foreign, 'statement of others runs', 'statements of others run')}{uses}",
    )
    running = () if sight is None else sight.longest
    longest = next((one for one in running if not one.waits_for_lock and not _is_service(one)), None)
    more = seen.is_raised("database.active_foreign", by=1)
    if longest is not None and longest.for_s >= STATEMENT_LONG_S and more and (saturated or share >= 0.4):
        return case.charged(
            0.9 if saturated else 0.8,
            f"{counted(foreign, 'statement of others competes', 'statements of others compete')} with ours{uses}. The "
            f"longest has run for {duration(longest.for_s)}, of {longest.who}: {longest.doing}",
            f"Stop it, if its owner can spare it: select pg_cancel_backend({longest.pid});",
            "See all: select pid, usename, application_name, now() - query_start, query from pg_stat_activity where "
            "state = 'active' order by query_start;",
            culprit=culprit_of(longest),
        )
    if share >= 0.5 and seen.harm.added_per_request_s >= SLOWER_S and not scene.was_down:
        return case.charged(
            0.6,
            f"Statements take longer than usual: {part(share)} of the added time is spent in them{uses}.",
            "See which: select query, calls, mean_exec_time from pg_stat_statements order by total_exec_time desc;",
            "Have plans changed, or statistics? `explain` those; look for a running vacuum or a backup.",
        )
    return case


HOW_IT_FAILED: Final = {
    Trouble.STARTING: "was there, but starting or recovering",
    Trouble.REFUSED: "was not there: nobody listened at its address",
    Trouble.LOST: "closed its connections: it crashed, or was restarted",
    Trouble.DENIED: "did not let us in",
    Trouble.READ_ONLY: "took no writes: only replicas answered",
    Trouble.SILENT: "took our question and did not answer: it hangs",
}


def database(scene: Scene) -> Case:
    """Does the server not answer, for a reason of its own?"""
    seen, sight = scene.seen, scene.sight
    answer_s = seen.high("database.answer_s")
    down_s = sum(point.get("database.up") == 0.0 for point in seen.now)
    case = Case(
        layer=Layer.DATABASE,
        segments=IN_DATABASE,
        evidence=(
            f"seconds in which it did not answer the keeper: {down_s} of {len(seen.now)}",
            f"connections that nodes could not open: {amount(seen.count('pool.failed'))}",
            versus("it answers the keeper in", answer_s, seen.usual("database.answer_s"), duration),
        ),
        cleared="nobody looked whether it answers" if answer_s is None else f"it answers in {duration(answer_s)}",
    )
    if not down_s or sight is None:
        return case
    trouble = sight.trouble or sight.last_trouble
    if scene.database_has_no_room:
        return replace(case, cleared="it does not answer, for want of room on its disk")
    if trouble is Trouble.FULL:
        return replace(case, cleared="it is there, and accepts no more connections")
    if scene.is_silent and (sight.other_way_answers or not sight.is_local):
        return replace(case, cleared="nothing comes back from it, but what is known of it is well")
    how = HOW_IT_FAILED.get(trouble, "did not answer") if trouble is not None else "did not answer"
    said = f" It said: {' '.join(sight.words.split())}." if not sight.up and sight.words else ""
    again = " It answers again." if sight.up else ""
    return case.charged(
        # Silence is also what a machine that is too busy is.
        0.8 if trouble is Trouble.SILENT else 0.95,
        f"The database {how}, for {down_s} of {counted(len(seen.now), 'second')}.{said}{again}",
        "The embedded one is started again by itself. `log/postgresql.log` says why it ended; `dmesg` whether it was "
        "killed for want of memory."
        if trouble is not Trouble.DENIED
        else "Check the role, its password, and pg_hba.conf.",
        "Elsewhere: is its machine up, is there a failover under way? `pg_isready -h HOST -p PORT`.",
    )


def replica(scene: Scene) -> Case:
    """Are answers of replicas old, or read again elsewhere?"""
    seen, sight = scene.seen, scene.sight
    age_s, lag_s = seen.lately("replica.age_s"), seen.lately("database.replica_lag_s")
    out, late, failed = seen.high("replica.out"), seen.count("replica.late"), seen.count("replica.failed")
    if age_s is None and lag_s is None and not out and not late and not failed:
        return Case(layer=Layer.REPLICA, cleared="there are no replicas")
    oldest_s = max(age_s or 0.0, lag_s or 0.0)
    case = Case(
        layer=Layer.REPLICA,
        segments=IN_DATABASE,
        fails=False,
        refuses=False,
        evidence=(
            versus("the oldest shows what was so long ago", age_s, seen.usual("replica.age_s"), duration),
            versus("the same, as the primary sees it", lag_s, seen.usual("database.replica_lag_s"), duration),
            versus("replicas that are left out", out, seen.usual("replica.out"), amount),
            f"reads done on the primary: {amount(late)} for a late one, {amount(failed)} for one that did not answer",
        ),
        cleared=f"the oldest shows what was {duration(oldest_s)} ago, {amount(out)} are left out",
    )
    is_late = seen.is_raised("replica.age_s", by=REPLICA_LATE_S, is_now=age_s) or seen.is_raised(
        "database.replica_lag_s", by=REPLICA_LATE_S, is_now=lag_s
    )
    is_out = (out or 0.0) > (seen.usual("replica.out") or 0.0)
    if not is_late and not is_out and not seen.is_raised("replica.late", by=10, times=3):
        return case
    latest = max(sight.replicas, key=lambda one: one.lag_s or 0.0, default=None) if sight is not None else None
    name = latest.name if latest is not None else "one of them"
    return case.charged(
        0.85 if is_late else 0.75,
        f"Replica {name} shows what was {duration(oldest_s)} ago; {amount(late + failed)} reads went to the primary.",
        "On the primary: select application_name, state, replay_lag from pg_stat_replication; on the replica: long "
        "queries (they stop the replay), recovery_min_apply_delay, its disk, its network.",
        "Reads go to the primary meanwhile. Take it out of SEAWALL_DATABASE_URL if it does not catch up.",
        culprit=Culprit(kind="replica", name=name),
    )


def culprit_of(session: Session) -> Culprit:
    """Return a session as what mitigation acts upon."""
    return Culprit(
        kind="session",
        name=session.who,
        number=session.pid,
        started_s=session.began_s,
        is_ours=session.is_ours,
        details={
            "application": session.application,
            "role": session.role,
            "state": session.state,
            "for_s": session.for_s,
            "blocks": session.blocks,
            "statement": session.doing,
        },
    )


def _is_full(scene: Scene) -> bool:
    """Whether the server, or the service's role, has all the connections that it may have."""
    used, most = scene.seen.lately("database.connections"), scene.seen.last("database.connections_max")
    sight = scene.sight
    if sight is not None and not sight.up and sight.trouble is Trouble.FULL:
        return True
    if sight is not None and sight.role_max is not None and sight.role_connections >= sight.role_max:
        return True
    return used is not None and most is not None and used >= most


def _holder(sight: DatabaseSight | None, used: float) -> Culprit | None:
    """Return who else than nodes has many connections."""
    others = () if sight is None else (one for one in sight.holders if not one.application.startswith(SERVICE))
    most = next(iter(others), None)
    if most is None or most.connections < max(2.0, HELD_SHARE * used):
        return None
    return Culprit(
        kind="application",
        name=most.application,
        number=most.connections,
        is_ours=most.is_ours,
        details={"role": most.role, "idle_in_transaction": most.idle_in_transaction},
    )


def _held_by(holder: Culprit) -> str:
    details = holder.details or {}
    idle = details.get("idle_in_transaction")
    doing = f", {idle} of them idle in a transaction" if idle else ""
    return f"{holder.number} are held by {holder.name or 'a program without a name'} as role {details['role']}{doing}"


def _against(holder: Culprit | None) -> tuple[str, ...]:
    if holder is None:
        return ("Run fewer nodes, or raise max_connections (it needs a restart).",)
    role = (holder.details or {})["role"]
    return (
        "End them, if their owner can spare it: select pg_terminate_backend(pid) from pg_stat_activity where "  # noqa: S608 - advice, run by nobody
        f"application_name = '{holder.name}' and usename = '{role}';",
        f"Limit them for good: alter role {role} connection limit 20; idle ones end with idle_session_timeout.",
    )


def _of_role(sight: DatabaseSight | None) -> str:
    if sight is None or sight.role_max is None:
        return ""
    return f"; the service's role has {sight.role_connections} and may have {sight.role_max}"


def _is_service(session: Session) -> bool:
    return session.is_ours and session.application.startswith(SERVICE)
