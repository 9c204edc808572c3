"""Tests of the HTTP server run on the event loop it is made for, with its clocks wound up."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from seawall.edge import connection, server


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Use uvloop, as the service does."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def wound_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at deadlines often, and linger shortly."""
    monkeypatch.setattr(server, "SWEEP_INTERVAL_S", 0.01)
    monkeypatch.setattr(connection, "LINGER_S", 0.3)
