"""The keeper's look at a real PostgreSQL: who waits for whom, what it says when it is not there, and whom it stops."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from seawall.clock import monotonic_s, wall_s
from seawall.database import Endpoint
from seawall.database.knock import answers
from seawall.database.local_server import LocalServer
from seawall.database.session import Session, open_session
from seawall.drills.tcp_proxy import Cut, Weather, tcp_proxy
from seawall.errors import SeawallError
from seawall.monitoring import local_postgres
from seawall.monitoring.database_probe import SLOW_S, DatabaseProbe
from seawall.monitoring.database_sight import Trouble
from seawall.monitoring.mitigation import Happened, Mitigation, MitigationSettings, Now
from seawall.monitoring.things import Diagnosis, Layer

PATIENCE_S = 20.0

LOCKED = Diagnosis(
    at_s=0.0, suspect=Layer.LOCKS, share=None, mechanism="", evidence=(), ruled_out=(), advice=(), culprit=None
)


@pytest.fixture
def administrator(local_server: LocalServer, database_endpoint: Endpoint) -> Endpoint:
    """The test's own database, as its administrator."""
    return replace(local_server.superuser, database=database_endpoint.database)


@asynccontextmanager
async def probing(*endpoints: Endpoint, role: str = "seawall") -> AsyncIterator[DatabaseProbe]:
    """Have a probe that looks each time it is told to, and close its session afterwards."""
    probe = DatabaseProbe(endpoints, role=role)
    try:
        yield probe
    finally:
        running = asyncio.create_task(probe.run())
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def session(endpoint: Endpoint, name: str) -> AsyncIterator[Session]:
    """Have another program's session for the length of the block."""
    opened = await open_session(endpoint, application_name=name)
    try:
        yield opened
    finally:
        opened.drop()


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = PATIENCE_S) -> None:
    """Wait until something holds."""
    deadline_s = monotonic_s() + within_s
    while not await holds():
        assert monotonic_s() < deadline_s
        await asyncio.sleep(0.05)


async def test_who_waits_is_traced_to_who_waits_for_nobody(
    administrator: Endpoint, database_endpoint: Endpoint
) -> None:
    async with (
        probing(administrator) as probe,
        session(database_endpoint, "holder") as holder,
        session(database_endpoint, "first") as first,
        session(database_endpoint, "second") as second,
    ):
        await holder.run("begin; lock table buckets in share mode; select 'somebody''s secret'", within_s=5)
        waiting = [asyncio.create_task(first.run("begin; lock table buckets; commit", within_s=PATIENCE_S))]

        async def all_wait() -> bool:
            await probe.look()
            return probe.point().get("database.lock_waiters") == len(waiting)

        await until(all_wait)
        # Only behind the first, who wants more than the holder's lock allows, does this one have to wait.
        reads = second.run("select count(*) from buckets where 17 = 17", within_s=PATIENCE_S)
        waiting.append(asyncio.create_task(reads))
        await until(all_wait)

        (blocker,) = probe.sight.blockers
        assert (blocker.application, blocker.blocks, blocker.is_ours) == ("holder", 2, True)
        assert blocker.is_idle_in_transaction
        assert "secret" not in blocker.doing
        assert probe.point()["database.lock_wait_s"] > 0
        assert probe.point()["database.idle_in_transaction"] == 1
        assert {one.application for one in probe.sight.longest} == {"first", "second"}
        # Not what it was asked for: its connection began at another time.
        assert not await probe.terminate(replace(blocker, began_s=blocker.began_s - 5))
        assert await probe.terminate(blocker)
        await asyncio.gather(*waiting)


async def test_who_keeps_others_waiting_for_too_long_is_ended_and_they_go_on(
    administrator: Endpoint, database_endpoint: Endpoint
) -> None:
    settings = MitigationSettings(idle_in_transaction_max_s=0.2)
    async with (
        probing(administrator) as probe,
        session(database_endpoint, "forgetful") as forgetful,
        session(database_endpoint, "waiting") as waiting,
    ):
        mitigation = Mitigation(
            settings, cancel=probe.cancel, terminate=probe.terminate, tell=lambda _node, _message: False
        )
        await forgetful.run("begin; lock table buckets", within_s=5)
        served = asyncio.create_task(waiting.value("select count(*) from buckets", within_s=PATIENCE_S))
        happened: list[Happened] = []

        async def it_is_ended() -> bool:
            await probe.look()
            now = Now(at_s=wall_s(), point=probe.point(), diagnosis=LOCKED, sight=probe.sight)
            happened.extend(await mitigation.step(now))
            return served.done()

        await until(it_is_ended)

        assert await served == 0
        assert [one.kind for one in happened] == ["mitigation.begun"]
        assert "forgetful" in happened[0].action.target
        assert forgetful.is_lost


async def test_a_statement_is_cancelled_and_its_session_lives(
    administrator: Endpoint, database_endpoint: Endpoint
) -> None:
    async with probing(administrator) as probe, session(database_endpoint, "report") as report:
        running = asyncio.create_task(report.run("select pg_sleep(60)", within_s=PATIENCE_S))

        async def it_runs() -> bool:
            await probe.look()
            return any(one.application == "report" for one in probe.sight.longest)

        await until(it_runs)
        longest = next(one for one in probe.sight.longest if one.application == "report")

        assert longest.doing == "select pg_sleep(?)"
        assert await probe.cancel(longest)
        with pytest.raises(SeawallError):
            await running
        assert not report.is_lost


async def test_a_session_that_has_gone_on_since_it_was_looked_at_is_left_alone(
    administrator: Endpoint, database_endpoint: Endpoint
) -> None:
    async with probing(administrator) as probe, session(database_endpoint, "slow") as slow:
        await slow.run("begin", within_s=5)
        await asyncio.sleep(0.05)
        await probe.look()
        seen = next(one for one in probe.sight.idle if one.application == "slow")

        await slow.run("commit", within_s=5)
        assert not await probe.terminate(seen)
        await slow.run("begin", within_s=5)
        assert not await probe.terminate(seen)
        assert not await probe.cancel(replace(seen, state="active"))
        assert not slow.is_lost


async def test_to_stop_somebody_and_to_look_take_turns(administrator: Endpoint, database_endpoint: Endpoint) -> None:
    async with probing(administrator) as probe, session(database_endpoint, "idle") as idle:
        await idle.run("begin", within_s=5)
        await probe.look()
        seen = next(one for one in probe.sight.idle if one.application == "idle")
        elsewhere = replace(seen, began_s=0.0)

        told = await asyncio.gather(*(probe.terminate(elsewhere) for _ in range(3)), probe.look(), probe.look())

        assert told[:3] == [False, False, False]
        assert probe.sight.up
        assert probe.point()["database.up"] == 1.0
        assert await probe.terminate(seen)


async def test_sessions_are_counted_as_ours_or_others(administrator: Endpoint, database_endpoint: Endpoint) -> None:
    async with probing(administrator) as probe:
        await probe.look()
        before = probe.point()
        async with (
            session(database_endpoint, "seawall node-1"),
            session(database_endpoint, "cron"),
            session(administrator, "seawall impostor"),
        ):
            await probe.look()

            point = probe.point()
            assert point["database.connections"] - before["database.connections"] == 3
            assert point["database.foreign"] - before["database.foreign"] == 2
            holders = {(one.application, one.is_ours) for one in probe.sight.holders}
            assert {("seawall node-1", True), ("cron", True), ("seawall impostor", False)} <= holders


async def test_when_there_are_no_connections_left_the_kept_one_still_sees_everything(administrator: Endpoint) -> None:
    async with session(administrator, "set up") as setting_up:
        await setting_up.run(
            "drop role if exists narrow; create role narrow login password 'narrow' connection limit 1", within_s=5
        )
        await setting_up.run("grant pg_monitor to narrow", within_s=5)
        narrow = replace(administrator, user="narrow", password="narrow")
        async with probing(narrow, role="narrow") as kept, probing(narrow, role="narrow") as late:
            await kept.look()
            await late.look()

            assert (late.sight.up, late.sight.trouble) == (False, Trouble.FULL)
            assert late.point()["database.up"] == 0
            await kept.look()
            assert kept.sight.up
            assert kept.sight.role_max == 1
        await setting_up.run("drop owned by narrow; drop role narrow", within_s=5)


async def test_a_loss_that_is_over_is_told_once(administrator: Endpoint) -> None:
    async with probing(administrator) as probe, session(administrator, "set up") as other:
        await probe.look()
        assert probe.point()["database.up"] == 1
        end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'seawall probe'"
        await other.value(end, within_s=5)
        await probe.look()
        await probe.look()

        assert probe.sight.up
        assert probe.sight.last_trouble is Trouble.LOST
        assert [probe.point()["database.up"] for _ in range(2)] == [0, 1]


async def test_a_server_that_is_not_there_is_told_apart(administrator: Endpoint, tmp_path: Path) -> None:
    async with probing(replace(administrator, host=str(tmp_path))) as probe:
        await probe.look()

        assert (probe.sight.up, probe.sight.trouble) == (False, Trouble.REFUSED)
        assert not await answers(probe.endpoint, within_s=1)


async def test_a_password_that_does_not_fit_is_told_apart(administrator: Endpoint) -> None:
    async with probing(replace(administrator, password="wrong")) as probe:
        await probe.look()

        assert probe.sight.trouble is Trouble.DENIED


async def test_a_server_cut_off_from_us_is_known_to_be_well(administrator: Endpoint, tmp_path: Path) -> None:
    name = f".s.PGSQL.{administrator.port}"

    async def all_have_left() -> bool:
        return way.connections == 0

    async with (
        tcp_proxy(Path(administrator.host) / name, listen=tmp_path / name) as way,
        AsyncExitStack() as leaving,
        probing(replace(administrator, host=str(tmp_path))) as probe,
    ):
        leaving.push_async_callback(until, all_have_left)
        await probe.look()
        assert probe.sight.up
        with way.under(Weather(cut=Cut.BLACK_HOLE)):
            looking = asyncio.create_task(probe.look())

            async def it_knows() -> bool:
                return probe.sight.other_way_answers is True

            await until(it_knows)

            assert (probe.sight.up, probe.sight.trouble) == (False, Trouble.SILENT)
            assert probe.sight.processes_live
            assert probe.sight.answer_s >= SLOW_S
        await looking
        # It was the same session all the time: another might not have been had.
        assert probe.sight.up
        assert way.accepted == 1


async def test_the_one_that_takes_writes_is_looked_at(administrator: Endpoint, tmp_path: Path) -> None:
    async with probing(replace(administrator, host=str(tmp_path)), administrator) as probe:
        await probe.look()
        await probe.look()

        assert probe.sight.up
        assert probe.endpoint is administrator


async def test_what_its_processes_use_is_known_where_they_are_here(
    administrator: Endpoint, database_endpoint: Endpoint, local_server: LocalServer
) -> None:
    async with probing(administrator) as probe, session(database_endpoint, "busy") as busy:
        await probe.look()
        await busy.value("select count(md5(n::text)) from generate_series(1, 500000) as n", within_s=PATIENCE_S)
        await probe.look()

        assert probe.point()["database.cpu"] > 0
        assert probe.data_directory is not None
        assert (probe.data_directory / "PG_VERSION").exists()
        assert local_postgres.postmaster_of(busy.pid, role="seawall") == local_server.pid
        assert local_postgres.postmaster_of(busy.pid, role="somebody_else") is None
        assert local_postgres.is_alive(local_server.pid)


async def test_a_session_that_cannot_be_stopped_is_told(administrator: Endpoint) -> None:
    async with probing(administrator) as probe:
        await probe.look()
        one = probe.sight.longest[0] if probe.sight.longest else None
        if one is None:
            async with session(administrator, "idle") as idle:
                await idle.run("begin", within_s=5)
                await probe.look()
                one = next(each for each in probe.sight.idle if each.application == "idle")

        unseen = DatabaseProbe([administrator], role="seawall")
        with pytest.raises(SeawallError):
            await unseen.cancel(one)
