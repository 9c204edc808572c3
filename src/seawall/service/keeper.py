"""The composition root of the keeper, read top to bottom like a packing list.

Tests and drills start it exactly as operators do. Every background loop of the keeper is named here.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seawall.access import AccountBook, NewAccount
from seawall.access.accounts import KeyPair, new_access_key, new_secret_key
from seawall.blobs import DiskBlobStore
from seawall.clock import monotonic_s
from seawall.console import HealthDoor, IncidentDoor, Readiness, RootEntry
from seawall.database import Database, Endpoint, find_primary
from seawall.database.leases import check_server
from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.database.migrations import migrate
from seawall.errors import NotRunning
from seawall.incidents.copies import Copies
from seawall.incidents.desk import IncidentDesk
from seawall.monitoring.alerts import AlertBook
from seawall.monitoring.database_probe import DatabaseProbe
from seawall.monitoring.disk_probe import DiskProbe
from seawall.monitoring.fleet import Fleet
from seawall.monitoring.mitigation import Mitigation
from seawall.monitoring.objectives import objectives_of
from seawall.monitoring.outbox import Delivery, Outbox
from seawall.monitoring.posting import Poster
from seawall.monitoring.signals import SignalWatch
from seawall.objects.sweeper import Sweeper
from seawall.scaling import LocalNodes, stop_strays
from seawall.service.loops import Loop, keep_running, serve, watch_local_server
from seawall.service.machine import keep_root_keys, listening_socket, prepare_data_dir, sole_keeper
from seawall.service.node import beside_pool
from seawall.service.watch import Watch
from seawall.settings import Settings
from seawall.telemetry.journal import Journal
from seawall.telemetry.link import Link, Message
from seawall.telemetry.metrics import FleetCollector, Snapshot, number, registry_of
from seawall.telemetry.purpose import Urgency

log = logging.getLogger(__name__)
# How long whoever starts waits for a server that takes writes.
DATABASE_PATIENCE_S = 30.0
ROOT = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """A running keeper."""

    link: Link
    nodes: LocalNodes
    watch: Watch
    s3_address: tuple[str, int]
    console_address: tuple[str, int]
    new_root: KeyPair | None
    """The root's keys, when they were made just now."""

    def readiness(self) -> Readiness:
        """Say whether the fleet can serve."""
        summaries = self.link.summaries()
        if not summaries:
            return Readiness(ready=False, reason="no node has reported yet")
        reasons = {str(summary["reason"]) for summary in summaries.values()}
        if any(summary["ready"] for summary in summaries.values()):
            return Readiness(ready=True)
        return Readiness(ready=False, reason="; ".join(sorted(reasons)))


@asynccontextmanager
async def running_keeper(settings: Settings) -> AsyncIterator[Keeper]:
    """Start PostgreSQL, the nodes and what watches them; stop them in reverse when the block ends.

    Raises:
        Misconfigured: another service runs on this data directory, or the settings cannot work.
    """
    async with AsyncExitStack() as stack:
        prepare_data_dir(settings.data_dir)
        stack.enter_context(sole_keeper(settings.data_dir))
        roster = settings.data_dir / "run" / "nodes.json"
        notifications = settings.notifications()
        # The nodes send them; what cannot work is said here, once.
        settings.traces()
        objectives = objectives_of(settings.objectives())
        # What happened, and what it was like: before anything that may fail, and needing nothing of it.
        journal = stack.enter_context(Journal(settings.data_dir / "journal"))
        journal.write("keeper.started", release=version("seawall"), pid=os.getpid())
        stack.callback(journal.write, "keeper.stopped", pid=os.getpid())
        fleet = await stack.enter_async_context(Fleet(settings.data_dir / "monitoring", tell=journal.write))
        await stop_strays(roster, drain_s=settings.drain_s)
        environment = {**os.environ, **settings.as_environment()}
        s3_listener = listening_socket(settings.host, settings.s3_port)
        stack.callback(s3_listener.close)
        nodes = LocalNodes(
            settings.nodes_min(),
            environment=environment,
            descriptors=[s3_listener.fileno()],
            roster=roster,
            drain_s=settings.drain_s,
            tell=journal.write,
        )

        external = settings.external_database()
        local: LocalServer | None = None
        if not external:
            most = settings.drill_connections_max
            local_settings = LocalServerSettings(
                data_dir=settings.data_dir,
                binaries=settings.postgres_binaries,
                extra={"max_connections": str(most)} if most else {},
            )
            local = await stack.enter_async_context(LocalServer(local_settings))
        endpoints = external or ((local.service,) if local is not None else ())
        deadline_s = monotonic_s() + DATABASE_PATIENCE_S
        direct = settings.direct_database() or endpoints
        primary = await find_primary(direct, application_name="seawall keeper", deadline_s=deadline_s)
        # Before anything is written there: a role that must not serve would own what it made.
        await check_server(primary, settings.lease(), beside=beside_pool(endpoints))
        for migration in await migrate(primary):
            log.info("database.migrated", extra={"migration": migration})

        # Its own few connections: commands work when the nodes' are all in use.
        database = await stack.enter_async_context(
            Database(
                endpoints, settings.database(), application_name="seawall keeper", direct=settings.direct_database()
            )
        )
        accounts = AccountBook(database)
        new_root = await ensure_root(accounts, settings)
        answers = Answers(accounts, settings.data_dir)
        link = await stack.enter_async_context(Link(settings.socket_path(), answers, hear=fleet.hear))
        fleet.expect(f"node-{number_}" for number_ in range(1, settings.nodes_min() + 1))

        stack.push_async_callback(nodes.stop)
        for number_ in range(1, settings.nodes_min() + 1):
            keep_running(stack, f"keep node-{number_}", partial(nodes.keep, f"node-{number_}"))
        if local is not None:
            keep_running(stack, "watch PostgreSQL", partial(watch_local_server, local, tell=journal.write))

        console = listening_socket(settings.console_host, settings.console_port)
        console_address = console.getsockname()[:2]
        desk = IncidentDesk(
            settings.data_dir / "incidents",
            tell=journal.write,
            series=fleet.series,
            users_between=fleet.users_between,
            url="http://{}:{}/incidents/{{id}}".format(*console_address),
        )
        # The embedded server's administrator has a place even when our own role has none left.
        looked_at = direct if local is None else (local.superuser,)
        probe = DatabaseProbe(looked_at, role=direct[0].user)
        disk = stack.enter_context(
            DiskProbe(settings.data_dir / "run" / "disk-probe", database_directory=lambda: probe.data_directory)
        )
        outbox = Outbox(
            notifications.targets(),
            Poster(allow_private=notifications.allow_private),
            tell=partial(tell_of_delivery, journal),
        )
        watch = Watch(
            fleet=fleet,
            book=AlertBook(objectives),
            signals=SignalWatch(),
            database=probe,
            disk=disk,
            mitigation=Mitigation(
                settings.mitigation(), cancel=probe.cancel, terminate=probe.terminate, tell=link.tell
            ),
            desk=desk,
            outbox=outbox,
            journal=journal,
            link=link,
            state=settings.data_dir / "monitoring" / "alerts.json",
        )
        await watch.start()
        stack.push_async_callback(desk.stop)
        stack.callback(outbox.close)
        operating: dict[str, Loop] = {
            "put seconds together": fleet.run,
            "look at PostgreSQL": probe.run,
            "watch": watch.run,
            "write incidents": desk.keep,
            "copy incidents": partial(desk.copy, Copies(database)),
            "notify": outbox.run,
        }
        for name, loop in operating.items():
            keep_running(stack, name, loop, urgency=Urgency.CRITICAL)
        keeper = Keeper(
            link=link,
            nodes=nodes,
            s3_address=s3_listener.getsockname()[:2],
            console_address=console_address,
            new_root=new_root,
            watch=watch,
        )
        answers.keeper = keeper
        registry = registry_of(FleetCollector(lambda: fleet_snapshots(keeper)))
        entry = RootEntry(settings.data_dir / "root-credentials")
        door = HealthDoor(keeper.readiness, registry, IncidentDoor(desk, entry))
        await serve(stack, door, settings, console)
        yield keeper


@asynccontextmanager
async def open_sweeper(settings: Settings, endpoints: Sequence[Endpoint]) -> AsyncIterator[Sweeper]:
    """Open what sweeping and scrubbing need, for a command beside the running service."""
    async with (
        Database(
            endpoints, settings.database(), application_name="seawall command", direct=settings.direct_database()
        ) as database,
        DiskBlobStore(settings.blobs()) as blobs,
    ):
        yield Sweeper(database, blobs, grace_s=settings.garbage_grace_s, interval_s=settings.sweep_interval_s)


class Answers:
    """Answers the questions of commands. State: the keeper, once it runs."""

    def __init__(self, accounts: AccountBook, data_dir: Path) -> None:
        self.keeper: Keeper | None = None
        self._data_dir = data_dir
        self._accounts = accounts

    async def __call__(self, message: Message) -> Any:
        """Answer one question.

        Raises:
            SeawallError: it was declined, with the reason.
        """
        match message["ask"]:
            case "status":
                return self._status()
            case "diagnose":
                return self._watch().diagnose_now().as_json()
            case question if question.startswith("incidents."):
                return await self._watch().desk.answer(message)
            case "user.add":
                pair = await self._accounts.add(NewAccount(**message["account"]))
                return {"access_key": pair.access_key, "secret_key": pair.secret_key}
            case "user.list":
                return [
                    {
                        "name": account.name,
                        "id": account.canonical_id,
                        "display_name": account.display_name,
                        "email": account.email,
                        "admin": account.is_admin,
                        "background": account.is_background,
                        "created_at": account.created_at.isoformat(),
                        "access_keys": list(account.access_keys),
                    }
                    for account in await self._accounts.list()
                ]
            case "user.remove":
                await self._accounts.remove(message["name"])
                return {"removed": message["name"]}
            case "user.key":
                pair = await self._accounts.give_new_key(message["name"])
                if message["name"] == ROOT:
                    keep_root_keys(self._data_dir, pair)
                return {"access_key": pair.access_key, "secret_key": pair.secret_key}
            case question:
                raise NotRunning(f"This service does not know the question {question!r}: it is another release.")

    def _watch(self) -> Watch:
        if self.keeper is None:
            raise NotRunning("The service is still starting.")
        return self.keeper.watch

    def _status(self) -> Message:
        if self.keeper is None:
            raise NotRunning("The service is still starting.")
        readiness = self.keeper.readiness()
        summaries = self.keeper.link.summaries()
        return {
            "ready": readiness.ready,
            "reason": readiness.reason,
            "s3": "http://{}:{}".format(*self.keeper.s3_address),
            "console": "http://{}:{}".format(*self.keeper.console_address),
            "nodes": {
                name: {
                    "pid": pid,
                    "ready": bool(summaries.get(name, {}).get("ready", False)),
                    "reason": summaries.get(name, {}).get("reason", "has not reported yet"),
                    "connections": summaries.get(name, {}).get("connections"),
                }
                for name, pid in self.keeper.nodes.pids.items()
            },
        }


async def ensure_root(accounts: AccountBook, settings: Settings) -> KeyPair | None:
    """Make the root account at first start; return its keys when they were made up."""
    given = bool(settings.root_access_key and settings.root_secret_key.get_secret_value())
    if any(account.name == ROOT for account in await accounts.list()):
        return None
    pair = KeyPair(
        access_key=settings.root_access_key or new_access_key(),
        secret_key=settings.root_secret_key.get_secret_value() or new_secret_key(),
    )
    # The file first: an account whose keys nobody knows would be worse than keys of no account.
    keep_root_keys(settings.data_dir, pair)
    await accounts.add(NewAccount(name=ROOT, access_key=pair.access_key, secret_key=pair.secret_key, is_admin=True))
    return None if given else pair


def tell_of_delivery(journal: Journal, delivery: Delivery) -> None:
    """Write down what became of a notice."""
    journal.write(delivery.kind, **delivery.fields())


def fleet_snapshots(keeper: Keeper) -> Iterable[tuple[str, Snapshot]]:
    """Return the last snapshot of every node, and what only the keeper knows."""
    yield "keeper", {"seawall_nodes_expected": [number(keeper.nodes.count)]}
    yield from keeper.link.metrics()
