"""What tests of drills need: a throwaway instance for all of them, with users and objects."""

from collections.abc import AsyncIterator

import pytest_asyncio

from seawall.drills.instance import Stage, running_instance, set_stage

USERS = 400
CONNECTIONS_MAX = 300


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage() -> AsyncIterator[Stage]:
    """A service of our own that takes 300 connections, its users, and some objects."""
    async with running_instance({"SEAWALL_CONNECTIONS_MAX": str(CONNECTIONS_MAX)}) as instance:
        yield await set_stage(instance, users=USERS, objects=20)
