import asyncio
import json
import socket
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.edge.kit import Response, Served
from tests.incidents import kit
from tests.incidents.kit import Past

from seawall.console import HealthDoor, IncidentDoor, Readiness, RootEntry, root_entry
from seawall.edge import HttpServer, HttpSettings
from seawall.incidents.desk import IncidentDesk

KEYS = "access_key = SWROOT\nsecret_key = a-secret:with a colon\n"
RIGHT = "Basic " + b64encode(b"SWROOT:a-secret:with a colon").decode()
WRONG = "Basic " + b64encode(b"SWROOT:a guess").decode()


class Console:
    """The console port, with one incident. State: the desk, where the keys are, and the server."""

    def __init__(self, desk: IncidentDesk, keys: Path, served: Served) -> None:
        self.desk = desk
        self.keys = keys
        self.served = served

    async def ask(
        self, method: str, path: str, *, authorization: str = RIGHT, body: bytes = b"", **headers: str
    ) -> Response:
        """Ask for something; headers are written with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization:
            named["Authorization"] = authorization
        if body or method == "POST":
            named["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        async with self.served.connect() as client:
            await client.send(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:9002\r\n{head}\r\n".encode() + body)
            return await client.response(method=method)

    async def say(self, path: str, said: Any, **headers: str) -> Response:
        headers = {"Content_Type": "application/json", **headers}
        return await self.ask("POST", path, body=json.dumps(said).encode(), **headers)


@pytest.fixture
async def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Console]:
    monkeypatch.setattr(root_entry, "WRONG_WAITS_S", 0.05)
    keys = tmp_path / "root-credentials"
    keys.write_text(KEYS)
    past = Past()
    desk = IncidentDesk(
        tmp_path / "incidents", tell=lambda *_, **__: None, series=past.series, users_between=past.users_between
    )
    incident, rows = kit.whole()
    desk.files.save(incident)
    desk.files.add_points(incident.id, rows)
    await desk.start(lambda _since_s: [])
    door = HealthDoor(lambda: Readiness(ready=True), CollectorRegistry(), IncidentDoor(desk, RootEntry(keys)))
    async with HttpServer(door, HttpSettings(drain_s=1), observe=lambda _exchange, _s: None) as server:
        listener = socket.create_server(("127.0.0.1", 0))
        await server.listen(listener)
        yield Console(desk, keys, Served(server, listener.getsockname(), []))


READS = [
    "/incidents",
    "/incidents/latest",
    "/incidents/2026-11-24-1",
    "/incidents/2026-11-24-1/post-mortem",
    "/incidents/2026-11-24-1/post-mortem.html",
]
WRITES = ["/incidents/2026-11-24-1/notes", "/incidents/2026-11-24-1/acknowledge"]


NO_KEYS = [
    "",
    WRONG,
    "Basic",
    "Basic !!!",
    "Basic " + b64encode(b"no colon").decode(),
    "Basic " + b64encode(b"\xff:\xff").decode(),
    "Basic " + b64encode(b":").decode(),
    "Basic " + b64encode(b"SWROOT:").decode(),
    "Basic " + b64encode(b"swroot:a-secret:with a colon").decode(),
    RIGHT.replace("Basic", "Bearer"),
]


@pytest.mark.parametrize(("method", "path"), [*(("GET", path) for path in READS), *(("POST", path) for path in WRITES)])
async def test_nothing_is_told_and_nothing_taken_without_the_root_keys(
    console: Console, method: str, path: str
) -> None:
    responses = await asyncio.gather(
        *(console.ask(method, path, authorization=wrong, Content_Type="application/json") for wrong in NO_KEYS)
    )

    assert {response.status for response in responses} == {401}
    for response in responses:
        assert b"SWROOT" not in response.body
        assert b"connections" not in response.body
        assert response.headers["www-authenticate"].startswith("Basic ")
    assert (await console.desk.find("latest")).acknowledged is None


async def test_without_a_file_of_keys_nobody_is_let_in(console: Console) -> None:
    console.keys.unlink()

    assert (await console.ask("GET", "/incidents")).status == 401


async def test_new_keys_count_at_once_and_those_known_while_the_file_cannot_be_read(console: Console) -> None:
    assert (await console.ask("GET", "/incidents")).status == 200
    console.keys.unlink()
    assert (await console.ask("GET", "/incidents")).status == 200
    console.keys.write_text(KEYS.replace("a-secret", "another"))

    assert (await console.ask("GET", "/incidents")).status == 401


async def test_who_guesses_much_at_once_is_not_looked_at(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_entry, "WRONG_WAITING_MAX", 2)
    monkeypatch.setattr(root_entry, "WRONG_WAITS_S", 1.0)

    responses = await asyncio.gather(*(console.ask("GET", "/incidents", authorization=WRONG) for _ in range(6)))

    statuses = sorted(response.status for response in responses)
    assert statuses[:2] == [401, 401]
    assert 429 in statuses


async def test_incidents_are_told(console: Console) -> None:
    listed = await console.ask("GET", "/incidents")
    one = await console.ask("GET", "/incidents/latest")
    head = await console.ask("HEAD", "/incidents/latest")

    assert [found["id"] for found in json.loads(listed.body)["incidents"]] == ["2026-11-24-1"]
    assert json.loads(one.body)["title"] == "Files could not be read: the database's connections were used up"
    assert one.headers["cache-control"] == "no-store"
    assert (head.status, head.body) == (200, b"")


async def test_the_post_mortem_is_text_or_a_page_that_can_do_nothing(console: Console) -> None:
    text = await console.ask("GET", "/incidents/2026-11-24-1/post-mortem")
    page = await console.ask("GET", "/incidents/2026-11-24-1/post-mortem.html")

    assert text.headers["content-type"] == "text/markdown; charset=utf-8"
    assert text.body.startswith(b"# Files could not be read")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert b"<svg" in page.body


async def test_notes_and_acknowledgements_are_taken(console: Console) -> None:
    noted = await console.say(WRITES[0], {"text": "It was the nightly report.", "who": "mara"})
    taken = await console.say(WRITES[1], {})

    assert (noted.status, taken.status) == (201, 200)
    incident = console.desk.files.find("latest")
    assert [(note.who, note.text) for note in incident.notes] == [("mara", "It was the nightly report.")]
    assert incident.acknowledged is not None
    assert incident.acknowledged.who == "root"


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9001"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:9002", "Sec_Fetch_Site": "same-origin"}, 0),
        ({"Content_Type": "application/json; charset=utf-8"}, 0),
    ],
)
async def test_another_site_cannot_have_a_browser_write(
    console: Console, path: str, headers: dict[str, str], status: int
) -> None:
    response = await console.say(path, {"text": "hello"}, **headers)

    if status:
        assert response.status == status
        incident = await console.desk.find("latest")
        assert (incident.notes, incident.acknowledged) == ((), None)
    else:
        assert response.status in {200, 201}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (WRITES[0], b"", 400),
        (WRITES[0], b"{", 400),
        (WRITES[0], b"[" * 50_000, 400),
        (WRITES[0], b"[]", 400),
        (WRITES[0], b'{"text": 5}', 400),
        (WRITES[0], b'{"text": "  "}', 400),
        (WRITES[0], b'{"text": "' + b"x" * 4001 + b'"}', 400),
        (WRITES[0], b'{"text": "' + b"x" * 70_000 + b'"}', 400),
        ("/incidents/2020-01-01-1/notes", b'{"text": "x"}', 404),
        ("/incidents/2026-11-24-1", b"{}", 405),
        ("/incidents", b"{}", 405),
        ("/incidents/2026-11-24-1/other", b"{}", 404),
        ("/incidents/..%2f..%2froot-credentials/notes", b'{"text": "x"}', 404),
        ("/incidentsx", b"{}", 405),
    ],
)
async def test_what_makes_no_sense_is_refused(console: Console, path: str, body: bytes, status: int) -> None:
    response = await console.ask("POST", path, body=body, Content_Type="application/json")

    assert response.status == status
    assert (await console.desk.find("latest")).notes == ()


@pytest.mark.parametrize(
    "path",
    ["/incidents/..", "/incidents/../root-credentials", "/incidents/2026-11-24-1/../x", "/incidents/%32026-11-24-1"],
)
async def test_names_lead_nowhere_else(console: Console, path: str) -> None:
    assert (await console.ask("GET", path)).status == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "GET"])
async def test_only_post_writes(console: Console, method: str) -> None:
    response = await console.ask(method, WRITES[1], Content_Type="application/json")

    assert response.status == 405
    assert response.headers["allow"] == "POST"
    assert (await console.desk.find("latest")).acknowledged is None


def test_only_this_machine_is_let_in() -> None:
    assert root_entry.is_loopback("127.0.0.1")
    assert not root_entry.is_loopback("192.168.0.3")
    assert not root_entry.is_loopback("")
    assert not root_entry.is_loopback("localhost.evil.example")


async def test_health_needs_no_keys(console: Console) -> None:
    assert (await console.ask("GET", "/healthz", authorization="")).status == 200


async def test_who_guesses_does_not_lock_out_who_knows(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_entry, "WRONG_WAITING_MAX", 2)
    monkeypatch.setattr(root_entry, "WRONG_WAITS_S", 30.0)
    guessing = [asyncio.create_task(console.ask("GET", "/incidents", authorization=WRONG)) for _ in range(4)]
    try:
        # The first that is sent away says that as many wait as may.
        done, _ = await asyncio.wait(guessing, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert {one.result().status for one in done} == {429}

        assert (await console.ask("GET", "/incidents")).status == 200
    finally:
        for one in guessing:
            one.cancel()
        await asyncio.wait(guessing)


async def test_an_origin_that_makes_no_sense_is_another_site(console: Console) -> None:
    response = await console.say(WRITES[0], {"text": "a note"}, Origin="http://[")

    assert response.status == 403
