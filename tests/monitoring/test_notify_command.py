"""`seawall notify test`, as an operator runs it: its exit code is its answer, and it shows no secret."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass

import pytest
from tests.monitoring.receivers import receiving, says

from seawall.errors import Misconfigured
from seawall.settings import read_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the command ended, and what it said."""

    code: int | None
    out: str
    err: str


async def notify_test(*arguments: str, **settings: str) -> Ended:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SEAWALL_")}
    chosen = {f"SEAWALL_NOTIFY_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "seawall", "notify", "test", *arguments),
        env={**clean, **chosen},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Ended(code=process.returncode, out=out.decode(), err=err.decode())


async def test_each_target_is_told_that_a_test_begins_and_ends() -> None:
    async with receiving() as receiver:
        ended = await notify_test(
            "--json",
            webhook_url=receiver.url("/s3cret"),
            slack_url=receiver.url("/services/s3cret"),
            pagerduty_key="s3cret".ljust(32, "0"),
            pagerduty_url=receiver.url("/v2/enqueue"),
            ntfy_url=receiver.url("/s3cret"),
            allow_private="true",
        )

    told = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert [(one["target"], one["status"]) for one in told] == [
        (name, status) for name in ("webhook", "slack", "pagerduty", "ntfy") for status in ("opened", "resolved")
    ]
    assert len(receiver.requests) == 8
    assert all("test" in request.body.decode() for request in receiver.requests)
    assert "s3cret" not in ended.out


async def test_a_target_that_refuses_is_named_and_the_answer_is_no() -> None:
    async with receiving(says(403)) as receiver:
        ended = await notify_test(slack_url=receiver.url("/services/s3cret"), allow_private="true")

    assert (ended.code, ended.err) == (1, "")
    assert "NOT SENT: answered 403" in ended.out
    assert "s3cret" not in ended.out


async def test_only_the_target_that_is_asked_for_is_told() -> None:
    async with receiving() as receiver:
        settings = {"webhook_url": receiver.url(), "ntfy_url": receiver.url("/t"), "allow_private": "true"}
        ended = await notify_test("--target", "ntfy", "--page", **settings)

    assert ended.code == 0
    assert [(one.json()["topic"], one.json()["priority"]) for one in receiver.requests] == [("t", 5), ("t", 3)]


@pytest.mark.parametrize(("arguments", "words"), [((), "nobody is set up"), (("--target", "ntfy"), "ntfy is not")])
async def test_nobody_to_tell_is_said_so(arguments: tuple[str, ...], words: str) -> None:
    ended = await notify_test(*arguments)

    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


async def test_an_address_inside_is_refused_without_a_connection() -> None:
    async with receiving() as receiver:
        ended = await notify_test(webhook_url=receiver.url("/s3cret"))
        assert receiver.connections == 0

    assert ended.code == 1
    assert "SEAWALL_NOTIFY_ALLOW_PRIVATE" in ended.err
    assert "s3cret" not in ended.err


def test_settings_that_cannot_work_are_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_NOTIFY_SLACK_URL", "https://me:hunter2@hooks.slack.com/services/x")

    with pytest.raises(Misconfigured, match="SEAWALL_NOTIFY_SLACK_URL") as refused:
        read_settings().notifications()

    assert "hunter2" not in str(refused.value)


def test_nodes_are_not_told_who_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_NOTIFY_SLACK_URL", "https://hooks.slack.com/services/s3cret")

    assert not [name for name in read_settings().as_environment() if "NOTIFY" in name]
