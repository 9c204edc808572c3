"""A way between two programs passes on everything in its order, in the weather it is told to have."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.drills.kit import answering

from seawall.drills.tcp_proxy import FAIR, Address, Cut, TcpProxy, Weather, tcp_proxy

SOON_S = 5.0
KIB = 1024


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    if isinstance(address, Path):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def proxied() -> AsyncIterator[TcpProxy]:
    async with answering() as echo, tcp_proxy(echo.address) as proxy:
        yield proxy


@pytest.mark.parametrize("unix", [False, True])
async def test_everything_is_passed_on_in_its_order_and_so_is_the_end(*, unix: bool, tmp_path: Path) -> None:
    sent = bytes(range(256)) * 8 * KIB
    listen = tmp_path / "socket" if unix else None

    async with (
        answering() as echo,
        tcp_proxy(echo.address, listen=listen) as proxy,
        connected(proxy.address) as (reader, writer),
    ):

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        received = await asyncio.wait_for(reader.read(-1), SOON_S)
        await sending

    assert received == sent
    assert proxy.connections == 0
    assert listen is None or not listen.exists()


async def test_a_delay_is_added_each_way_and_does_not_make_the_way_narrow() -> None:
    async with proxied() as proxy, connected(proxy.address) as (reader, writer):
        with proxy.under(Weather(delay_s=0.1)):
            began_s = time.monotonic()
            writer.write(bytes(1024 * KIB))
            await asyncio.wait_for(reader.readexactly(1024 * KIB), SOON_S)
            took_s = time.monotonic() - began_s

    assert 0.2 <= took_s < 0.6


async def test_a_narrow_way_passes_so_much_a_second() -> None:
    async with proxied() as proxy, connected(proxy.address) as (reader, writer):
        with proxy.under(Weather(bytes_per_s=256.0 * KIB)):
            began_s = time.monotonic()
            writer.write(bytes(128 * KIB))
            await asyncio.wait_for(reader.readexactly(128 * KIB), SOON_S)
            took_s = time.monotonic() - began_s

    assert 0.4 <= took_s < 1.5


async def test_on_a_narrow_way_the_beginning_arrives_before_the_end() -> None:
    async with proxied() as proxy, connected(proxy.address) as (reader, writer):
        with proxy.under(Weather(bytes_per_s=16.0 * KIB)):
            began_s = time.monotonic()
            writer.write(bytes(4 * KIB))
            first = await asyncio.wait_for(reader.read(4 * KIB), SOON_S)
            await asyncio.wait_for(reader.readexactly(4 * KIB - len(first)), SOON_S)
            took_s = time.monotonic() - began_s

    assert len(first) < 4 * KIB
    assert took_s >= 0.2


async def test_a_black_hole_holds_back_what_arrives_when_it_ends() -> None:
    async with proxied() as proxy, connected(proxy.address) as (reader, writer):
        with proxy.under(Weather(cut=Cut.BLACK_HOLE)):
            writer.write(b"hello")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readexactly(5), 0.1)
        assert await asyncio.wait_for(reader.readexactly(5), SOON_S) == b"hello"


async def test_a_client_that_goes_in_a_black_hole_is_forgotten_afterwards() -> None:
    async with proxied() as proxy:
        with proxy.under(Weather(cut=Cut.BLACK_HOLE)):
            async with connected(proxy.address) as (_, writer):
                writer.write(b"hello")
                await writer.drain()
                await asyncio.sleep(0.05)
        async with asyncio.timeout(SOON_S):
            while proxy.connections:
                await asyncio.sleep(0.01)


async def test_connections_are_reset_the_open_ones_and_new_ones() -> None:
    async with proxied() as proxy, connected(proxy.address) as (reader, writer):
        writer.write(b"hello")
        await asyncio.wait_for(reader.readexactly(5), SOON_S)

        with proxy.under(Weather(cut=Cut.RESET)):
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(5), SOON_S)
            assert isinstance(proxy.address, tuple)
            with socket.create_connection(proxy.address, SOON_S) as opened:
                opened.settimeout(0)
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(asyncio.get_running_loop().sock_recv(opened, 5), SOON_S)

        async with connected(proxy.address) as (new_reader, new_writer):
            new_writer.write(b"again")
            assert await asyncio.wait_for(new_reader.readexactly(5), SOON_S) == b"again"


async def test_a_target_that_is_gone_is_a_reset() -> None:
    async with answering() as echo:
        gone = echo.address
    async with tcp_proxy(gone) as proxy, connected(proxy.address) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(5), SOON_S)


async def test_bad_weather_ends_with_its_block_however_that_ends() -> None:
    async with proxied() as proxy:
        with pytest.raises(ZeroDivisionError), proxy.under(Weather(delay_s=1.0)), proxy.under(Weather(cut=Cut.RESET)):
            raise ZeroDivisionError

        assert proxy.weather == FAIR


def test_weather_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no such weather"):
        Weather(delay_s=-1.0)
    with pytest.raises(ValueError, match="no such weather"):
        Weather(bytes_per_s=0.0)
