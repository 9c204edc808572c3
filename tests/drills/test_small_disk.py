"""A database whose disk is full stops taking writes, and goes on when there is room."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.conftest import THROWAWAY

from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.database.session import open_session
from seawall.drills.faults import Place, fault_named
from seawall.drills.small_disk import BALLAST, free_bytes, small_disk
from seawall.errors import Misconfigured, SeawallError
from seawall.service import watch_local_server

MIB = 1024 * 1024
GROW = "insert into filler select string_agg(md5(random()::text), '') from generate_series(1, 200000) as n group by n"


async def test_a_full_disk_stops_writes_until_there_is_room(open_directory: Callable[[], Path]) -> None:
    fault = fault_named("full-database-disk")
    assert fault is not None
    async with AsyncExitStack() as stack:
        try:
            disk = await stack.enter_async_context(small_disk(open_directory(), size_bytes=256 * MIB))
        except Misconfigured as error:
            pytest.skip(str(error))
        # As a machine would: its log is written for good.
        extra = {**THROWAWAY, "max_wal_size": "64MB", "min_wal_size": "32MB"}
        server = LocalServer(LocalServerSettings(data_dir=disk / "data", memory_bytes=64 * MIB, extra=extra))
        await stack.enter_async_context(server)

        async def keep() -> None:
            while True:
                try:
                    await watch_local_server(server)
                except SeawallError:
                    # There is no room for it to start: as its keeper does, try again.
                    await asyncio.sleep(0.2)

        keeping = asyncio.create_task(keep())
        stack.push_async_callback(asyncio.wait, [keeping])
        stack.callback(keeping.cancel)
        place = Place(superuser=server.superuser, service=server.service, data_dir=disk / "data", small_disk=disk)
        session = await open_session(place.superuser, application_name="a test")
        await session.run("create table filler (data text)", within_s=5)

        async with fault.inject(place):
            assert free_bytes(disk) == 0
            with pytest.raises(Exception, match=r"room|space|lost|Unavailable"):
                await session.run(GROW, within_s=20)

        session.drop()
        session = await open_session(place.superuser, application_name="a test")
        await session.run("insert into filler values ('there is room')", within_s=5)
        session.drop()
        assert not (disk / BALLAST).exists()
    assert not os.path.ismount(disk)
