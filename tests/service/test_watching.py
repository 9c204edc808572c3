"""The service watches itself: what hangs is noticed and remembered, and nothing of that needs the database."""

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from tests.service.conftest import StartService
from tests.service.kit import RunningService, stopped, wait_until

from seawall.database.local_server import LocalServer
from seawall.database.session import open_session

NOTICED_WITHIN_S = 15.0
"""The goal is 5 s for a node that hangs, and 3 s where nothing is served; this machine may be busy."""

ASKERS = 8


@dataclass(slots=True)
class Receiver:
    """Who is told. State: what arrived."""

    url: str
    notices: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Listen for webhooks on a port of our own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.notices.append(json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def incidents_of(service: RunningService) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.ask("incidents", "list")
    return found


def events_of(service: RunningService, kind: str) -> list[dict[str, Any]]:
    files = sorted((service.data_dir / "journal").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def test_a_node_that_hangs_is_noticed_told_of_and_remembered_by_the_next_keeper(start_service: StartService) -> None:
    with receiving() as receiver:
        service = start_service(
            SEAWALL_DRAIN_S="1", SEAWALL_NOTIFY_WEBHOOK_URL=receiver.url, SEAWALL_NOTIFY_ALLOW_PRIVATE="true"
        )
        # Who it is that hangs has to be known.
        wait_until(lambda: service.ask("status")["nodes"]["node-1"]["ready"], within_s=10, what="the node reports")
        with stopped(service.node_pids()):
            began_s = time.time()
            (incident,) = wait_until(lambda: incidents_of(service), within_s=NOTICED_WITHIN_S, what="it is noticed")
            wait_until(lambda: receiver.notices, within_s=NOTICED_WITHIN_S, what="somebody is told")
            assert service.process is not None
            service.process.kill()
            service.process.wait()
            service.process = None

            service.start()

            (resumed,) = incidents_of(service)
            service.command("incidents", "note", "latest", "the node stood still")
        record = service.ask("incidents", "show", resumed["id"])
        draft = service.command("incidents", "post-mortem", "latest").stdout

    assert resumed["id"] == incident["id"]
    assert -2 < record["detected_s"] - began_s < NOTICED_WITHIN_S
    assert record["alerts"][0]["alert"]["name"] == "nodes"
    assert [note["text"] for note in record["notes"]] == ["the node stood still"]
    assert receiver.notices[0]["status"] == "firing"
    assert len(events_of(service, "keeper.started")) == 2
    assert incident["id"] in draft
    assert "the node stood still" in draft


def test_all_of_it_works_while_the_database_answers_nothing_and_a_copy_gets_there_later(
    start_service: StartService,
) -> None:
    service = start_service()
    bucket = service.new_bucket()
    service.s3().put_object(Bucket=bucket, Key="key", Body=b"body")
    stop = threading.Event()

    def ask() -> None:
        client = service.s3()
        while not stop.is_set():
            with suppress(ClientError, BotoCoreError):
                client.get_object(Bucket=bucket, Key="key")["Body"].read()
            stop.wait(0.1)

    with ThreadPoolExecutor(ASKERS) as pool:
        for _ in range(ASKERS):
            pool.submit(ask)
        try:
            time.sleep(3)
            with stopped(service.postgres_pids()):
                wait_until(lambda: incidents_of(service), within_s=2 * NOTICED_WITHIN_S, what="it is noticed")
                wait_until(
                    lambda: service.ask("incidents", "show", "latest")["diagnoses"],
                    within_s=NOTICED_WITHIN_S,
                    what="a diagnosis",
                )
                found = wait_until(
                    lambda: [one for one in events_of(service, "diagnosis") if one["fields"]["suspect"] == "database"],
                    within_s=NOTICED_WITHIN_S,
                    what="the database is suspected",
                )
                (data_dir_incident,) = (service.data_dir / "incidents").glob("*-1")
        finally:
            stop.set()
    incident_id = incidents_of(service)[0]["id"]
    copied = wait_until(lambda: copy_of(service, incident_id), within_s=90, what="a copy is in the database")

    assert found
    assert (data_dir_incident / "incident.json").is_file()
    assert copied == incident_id


def copy_of(service: RunningService, incident_id: str) -> str | None:
    """Return the name of an incident as the database has it."""

    async def look() -> str | None:
        endpoint = LocalServer.find(service.data_dir)
        assert endpoint is not None
        session = await open_session(endpoint, application_name="test")
        try:
            answer: str | None = await session.value(
                "select id from incidents where id = $1", incident_id, within_s=10.0
            )
            return answer
        finally:
            session.drop()

    return asyncio.run(look())
