"""The keeper hears its nodes, and answers commands, over a socket only its user can open."""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from seawall.errors import Invalid, NotRunning, SeawallError
from seawall.telemetry import link
from seawall.telemetry.link import Link, Message, ask, report
from seawall.telemetry.request_log import RequestLog


async def answer(message: Message) -> Message:
    if message["ask"] == "refuse":
        raise Invalid("not like this")
    return {"heard": message}


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_command_gets_an_answer_or_a_refusal_with_its_reason(tmp_path: Path) -> None:
    async with Link(tmp_path / "run" / "keeper.sock", answer) as keeper:
        heard = await ask(keeper.path, "status", detail=1)
        with pytest.raises(SeawallError, match="not like this"):
            await ask(keeper.path, "refuse")

    assert heard == {"heard": {"ask": "status", "detail": 1}}


async def test_only_our_own_user_can_open_the_socket(tmp_path: Path) -> None:
    async with Link(tmp_path / "run" / "keeper.sock", answer) as keeper:
        assert stat.S_IMODE(keeper.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(keeper.path.parent.stat().st_mode) == 0o700


async def test_nobody_listening_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        await ask(tmp_path / "run" / "keeper.sock", "status")


async def test_a_node_is_heard_until_it_goes(tmp_path: Path) -> None:
    async with Link(tmp_path / "run" / "keeper.sock", answer) as keeper:
        node = asyncio.create_task(report(keeper.path, "node-1", lambda: {"ready": True}))
        await until(keeper.summaries)
        assert keeper.summaries() == {"node-1": {"node": "node-1", "ready": True}}

        node.cancel()
        await until(lambda: not keeper.summaries())


async def test_metrics_are_kept_apart_until_somebody_asks(tmp_path: Path) -> None:
    async with Link(tmp_path / "run" / "keeper.sock", answer) as keeper:
        node = asyncio.create_task(report(keeper.path, "node-1", lambda: {"ready": True, "metrics": {"up": [1]}}))
        await until(lambda: dict(keeper.metrics()))

        assert dict(keeper.metrics()) == {"node-1": {"up": [1]}}
        assert keeper.summaries() == {"node-1": {"node": "node-1", "ready": True}}

        node.cancel()
        await until(lambda: not keeper.summaries())
        assert not dict(keeper.metrics())


async def test_what_is_told_once_is_handed_on_and_not_kept(tmp_path: Path) -> None:
    heard = []

    def hear(node: str, message: Message) -> None:
        heard.append((node, dict(message)))

    async with Link(tmp_path / "run" / "keeper.sock", answer, hear=hear) as keeper:
        summary = {"ready": True, "point": {"loop.lag_s": 0.1}, "users": {}, "tenants": []}
        node = asyncio.create_task(report(keeper.path, "node-1", lambda: summary))
        await until(keeper.summaries)

        assert heard[0] == ("node-1", {"node": "node-1", **summary})
        assert keeper.summaries() == {"node-1": {"node": "node-1", "ready": True}}
        node.cancel()


async def test_a_node_that_is_silent_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Link(tmp_path / "run" / "keeper.sock", answer) as keeper:
        node = asyncio.create_task(report(keeper.path, "node-1", lambda: {"ready": True}))
        await until(keeper.summaries)

        monkeypatch.setattr(link, "SILENCE_MAX_S", -1.0)

        assert not keeper.summaries()
        node.cancel()


async def test_a_node_waits_for_a_keeper_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SUMMARY_INTERVAL_S", 0.01)
    path = tmp_path / "run" / "keeper.sock"
    node = asyncio.create_task(report(path, "node-1", lambda: {"ready": True}))
    await asyncio.sleep(0.05)

    async with Link(path, answer) as keeper:
        await until(keeper.summaries)

    node.cancel()


async def test_a_node_does_what_the_keeper_tells_it(tmp_path: Path) -> None:
    told: list[Message] = []
    async with Link(tmp_path / "run" / "keeper.sock", answer) as keeper:
        assert not keeper.tell("node-1", {"knob": "drain"})
        node = asyncio.create_task(report(keeper.path, "node-1", lambda: {"ready": True}, obey=told.append))
        await until(keeper.summaries)

        assert keeper.tell("node-1", {"knob": "drain"})
        assert not keeper.tell("node-2", {"knob": "drain"})
        await until(lambda: told)

        node.cancel()
        await until(lambda: not keeper.tell("node-1", {"knob": "drain"}))
    assert told == [{"knob": "drain"}]


async def test_a_knob_that_fails_does_not_end_the_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SUMMARY_INTERVAL_S", 0.01)
    told: list[Message] = []
    reports: list[int] = []

    def obey(message: Message) -> None:
        told.append(message)
        raise RuntimeError("it is stuck")

    def summary() -> Message:
        reports.append(1)
        return {}

    async with Link(tmp_path / "run" / "keeper.sock", answer) as keeper:
        node = asyncio.create_task(report(keeper.path, "node-1", summary, obey=obey))
        await until(keeper.summaries)
        keeper.tell("node-1", {"knob": "one"})
        keeper.tell("node-1", {"knob": "two"})
        await until(lambda: len(told) == 2)
        before = len(reports)
        await until(lambda: len(reports) > before)
        node.cancel()


async def test_seconds_pass_while_nobody_listens_and_a_new_keeper_is_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "SUMMARY_INTERVAL_S", 0.01)
    path = tmp_path / "run" / "keeper.sock"
    asked: list[str] = []

    def summary() -> Message:
        asked.append("summary")
        return {}

    node = asyncio.create_task(report(path, "node-1", summary, begin=lambda: asked.append("begin")))
    await until(lambda: len(asked) > 2)
    assert "begin" not in asked
    for _ in range(2):
        async with Link(path, answer) as keeper:
            await until(keeper.summaries)
    node.cancel()

    assert asked.count("begin") == 2


async def test_a_node_that_comes_again_is_not_forgotten_when_its_former_connection_ends(tmp_path: Path) -> None:
    async with Link(tmp_path / "run" / "keeper.sock", answer) as keeper:
        former, latter = [(await asyncio.open_unix_connection(keeper.path))[1] for _ in range(2)]
        for number, writer in enumerate((former, latter)):
            writer.write(json.dumps({"node": "node-1", "number": number}).encode() + b"\n")
            await until(lambda number=number: keeper.summaries().get("node-1", {}).get("number") == number)

        former.close()
        await former.wait_closed()
        await asyncio.sleep(0.05)

        assert keeper.summaries()["node-1"]["number"] == 1
        latter.close()
        await until(lambda: not keeper.summaries())


async def test_nonsense_on_the_socket_disturbs_nobody(tmp_path: Path) -> None:
    async with Link(tmp_path / "run" / "keeper.sock", answer) as keeper:
        reader, writer = await asyncio.open_unix_connection(keeper.path)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()

        assert await ask(keeper.path, "status") == {"heard": {"ask": "status"}}


async def test_request_lines_are_on_the_disk_when_the_log_closes(tmp_path: Path) -> None:
    path = tmp_path / "log" / "requests.jsonl"

    async with RequestLog(path) as log:
        for number in range(1000):
            log.add(json.dumps({"number": number, "at": log.now()}))

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["number"] for line in lines] == list(range(1000))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_full_request_log_makes_room_by_forgetting_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seawall.telemetry.request_log.FILE_MAX_BYTES", 10)
    path = tmp_path / "requests.jsonl"

    for number in range(8):
        async with RequestLog(path) as log:
            log.add(f"a long line {number}")

    assert not path.exists()
    kept = sorted(file.name for file in tmp_path.iterdir())
    assert kept == [f"requests.jsonl.{number}" for number in range(1, 5)]
    assert (tmp_path / "requests.jsonl.1").read_text() == "a long line 7\n"


async def test_lines_beyond_the_limit_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.telemetry.request_log.WAITING_MAX", 2)

    async with RequestLog(tmp_path / "requests.jsonl") as log:
        for _ in range(5):
            log.add("line")
        assert log.dropped == 3


async def test_a_keeper_that_hangs_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ANSWER_TIMEOUT_S", 0.1)

    async def never(_message: Message) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async with Link(tmp_path / "run" / "keeper.sock", never) as keeper:
        with pytest.raises(NotRunning, match="did not answer"):
            await ask(keeper.path, "status")
