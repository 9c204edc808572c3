"""The throwaway service comes up as it should, and goes without a trace, whatever happens."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from tests.service.kit import is_alive

from seawall.drills.client import Caller, Signer
from seawall.drills.instance import Cores, InstanceFailed, Stage, running_instance, shared_out
from seawall.errors import NotRunning

START_AND_WAIT = """
import asyncio, signal
from seawall.drills.instance import running_instance

# A shell has what it starts in the background ignore it, and so would we.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    async with running_instance() as instance:
        print(instance.directory, instance.process.pid, *instance.node_pids(), instance.postgres_pid(), flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if is_alive(pid)]


async def test_it_is_the_real_service_with_its_nodes_and_its_database(stage: Stage) -> None:
    instance = stage.instance
    async with Caller(instance.target(), Signer(*instance.root_keys)) as root:
        answer = await root.ask("GET", "/")
    service = await asyncpg.connect(**instance.service_database.connect_arguments())
    superuser = await asyncpg.connect(**instance.superuser_database.connect_arguments())
    try:
        admins = await service.fetchval("select count(*) from accounts where is_admin")
        is_superuser = await superuser.fetchval("select current_setting('is_superuser')")
    finally:
        await service.close()
        await superuser.close()

    assert answer.status == 200
    assert stage.bucket.encode() in answer.body
    assert len(alive([*instance.node_pids(), instance.postgres_pid()])) == 2
    assert instance.data_dir.is_dir()
    assert admins == len(stage.users) + 1
    assert is_superuser == "on"


async def test_service_and_generator_do_not_share_a_core_where_there_are_two(stage: Stage) -> None:
    cores = stage.instance.cores
    if cores.service is None:
        pytest.skip("this machine has one core")

    for pid in (stage.instance.process.pid, *stage.instance.node_pids(), stage.instance.postgres_pid()):
        assert os.sched_getaffinity(pid) == cores.service
    assert cores.generator not in cores.service
    assert os.sched_getaffinity(0) > cores.service


async def test_when_the_block_ends_nothing_is_left() -> None:
    async with running_instance({"SEAWALL_NODES": "2"}) as instance:
        pids = [instance.process.pid, *instance.node_pids(), instance.postgres_pid()]
        assert len(alive(pids)) == 4

    assert alive(pids) == []
    assert not instance.directory.exists()
    with pytest.raises(NotRunning):
        instance.postgres_pid()


async def test_nothing_is_left_of_a_service_whose_keeper_was_killed() -> None:
    async with running_instance() as instance:
        pids = [*instance.node_pids(), instance.postgres_pid()]
        instance.process.kill()
        instance.process.wait()
        assert len(alive(pids)) == 2

    assert alive(pids) == []
    assert not instance.directory.exists()


async def test_nothing_is_left_when_the_stop_is_interrupted() -> None:
    pids: list[int] = []
    directories: list[Path] = []

    async def drill() -> None:
        async with running_instance() as instance:
            directories.append(instance.directory)
            pids.extend([instance.process.pid, *instance.node_pids(), instance.postgres_pid()])
            os.kill(instance.process.pid, signal.SIGSTOP)  # it will not stop in order
            await asyncio.sleep(600)

    running = asyncio.create_task(drill())
    while not pids:
        await asyncio.sleep(0.1)
        assert not running.done()
    for _ in range(2):
        running.cancel()
        await asyncio.sleep(0.3)
    with pytest.raises(asyncio.CancelledError):
        await running

    assert alive(pids) == []
    assert not directories[0].exists()


def test_ctrl_c_leaves_nothing() -> None:
    drill = subprocess.Popen([sys.executable, "-c", START_AND_WAIT], stdout=subprocess.PIPE, text=True)
    assert drill.stdout is not None
    try:
        directory, *pids = drill.stdout.readline().split()
        drill.send_signal(signal.SIGINT)
        drill.wait(60)
    finally:
        drill.kill()
        drill.wait()
        drill.stdout.close()

    assert alive([*map(int, pids)]) == []
    assert not Path(directory).exists()


async def test_a_service_that_does_not_start_says_why() -> None:
    with pytest.raises(InstanceFailed, match=r"SEAWALL_DATABASE_URL|database_url"):
        async with running_instance({"SEAWALL_DATABASE_URL": "mysql://nowhere"}):
            pytest.fail("it cannot have started")


@pytest.mark.parametrize(
    ("cores", "shares"),
    [({3}, Cores(None, None)), ({0, 1}, Cores(frozenset({0}), 1)), ({5, 2, 7}, Cores(frozenset({2, 5}), 7))],
)
def test_the_generator_gets_a_core_of_its_own(cores: set[int], shares: Cores) -> None:
    assert shared_out(cores) == shares
