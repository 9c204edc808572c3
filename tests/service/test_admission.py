"""Admission through the S3 door: who is turned away touched nothing, and everybody is told what S3 clients know."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.service.conftest import StartService
from tests.service.kit import RunningService
from tests.service.signing import Request, send, signed

HOLD_S = 0.1


def metric(service: RunningService, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    text = service.health("/metrics")[1].decode()
    found = 0.0
    for line in text.splitlines():
        is_it = line.startswith((f"{name}{{", f"{name} "))
        if is_it and all(f'{key}="{value}"' in line for key, value in labels.items()):
            found += float(line.rpartition(" ")[2])
    return found


@pytest.fixture
def narrow(start_service: StartService) -> RunningService:
    """A service that can do little: each request for an object holds one of few connections for long."""
    return start_service(SEAWALL_DRILL_HOLD_S=str(HOLD_S), SEAWALL_REFUSAL_DELAY_S="0.2")


def crowd(
    service: RunningService, request: Callable[[], Request], *, threads: int, seconds: float
) -> list[tuple[int, str, float]]:
    """Ask from many threads at once, again and again; return status, S3's code and Retry-After of each answer."""
    answers: list[tuple[int, str, float]] = []
    stop_s = time.monotonic() + seconds
    lock = threading.Lock()

    def ask() -> None:
        while time.monotonic() < stop_s:
            answer = send(service.address, signed(request(), service.root))
            with lock:
                answers.append((answer.status, answer.code, float(answer.headers.get("retry-after", "nan"))))

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(ask)
    return answers


def test_a_crowd_is_told_to_slow_down_and_the_rest_is_served_as_fast_as_ever(narrow: RunningService) -> None:
    bucket = narrow.new_bucket()
    narrow.s3().put_object(Bucket=bucket, Key="key", Body=b"content")

    answers = crowd(narrow, lambda: Request(method="GET", path=f"/{bucket}/key"), threads=60, seconds=4.0)

    served = sum(status == 200 for status, _, _ in answers)
    told = {(status, code) for status, code, _ in answers if status != 200}
    assert told == {(503, "SlowDown")}
    assert {seconds for status, _, seconds in answers if status == 503} <= {1.0, 2.0, 3.0}
    assert served >= 0.5 * 4.0 * 6 / HOLD_S
    refused = metric(narrow, "seawall_gate_requests_total", **{"class": "interactive", "outcome": "refused"})
    assert refused > 0
    # As soon as they are gone, everybody is served.
    time.sleep(2.0)
    for _ in range(10):
        assert narrow.s3().get_object(Bucket=bucket, Key="key")["Body"].read() == b"content"


def test_who_is_refused_has_touched_neither_the_disk_nor_the_database(narrow: RunningService) -> None:
    bucket = narrow.new_bucket()
    narrow.s3().put_object(Bucket=bucket, Key="key", Body=b"content")
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            send(narrow.address, signed(Request(method="GET", path=f"/{bucket}/key"), narrow.root))

    def name_of(number: int) -> str:
        return f"/{bucket}/refused-{number}"

    with ThreadPoolExecutor(81) as pool:
        for _ in range(80):
            pool.submit(flood)
        try:
            time.sleep(2.0)
            blobs_before = {path for path in (narrow.data_dir / "blobs").rglob("*") if path.is_file()}
            body = os.urandom(100_000)
            outcomes = []
            for number in range(60):
                # In the background class nothing gets through while the others want more than there is.
                request = Request(method="PUT", path=name_of(number), body=body).with_headers(
                    x_seawall_priority="background"
                )
                outcomes.append(send(narrow.address, signed(request, narrow.root)).status)
            blobs_after = {path for path in (narrow.data_dir / "blobs").rglob("*") if path.is_file()}
        finally:
            stop.set()

    refused = [name_of(number) for number, status in enumerate(outcomes) if status == 503]
    assert len(refused) >= 30
    time.sleep(1.0)
    log = "".join(path.read_text() for path in (narrow.data_dir / "log").glob("requests-*.jsonl"))
    for path in refused:
        line = next(line for line in log.splitlines() if f'"path":"{path}"' in line)
        assert '"operation":"refused"' in line or '"error":"SlowDown"' in line
        assert send(narrow.address, signed(Request(method="HEAD", path=path), narrow.root)).status == 404
    written = len(outcomes) - len(refused)
    assert len(blobs_after - blobs_before) <= written + 1


def test_health_and_metrics_are_answered_while_requests_are_refused(narrow: RunningService) -> None:
    bucket = narrow.new_bucket()
    looks: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            looks.append(narrow.health("/readyz")[0])
            looks.append(narrow.health("/metrics")[0])
            time.sleep(0.05)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        answers = crowd(narrow, lambda: Request(method="GET", path=f"/{bucket}/none"), threads=60, seconds=3.0)
    finally:
        stop.set()
        watcher.join()

    assert any(status == 503 for status, _, _ in answers)
    assert set(looks) == {200}
    assert len(looks) > 20


def test_an_account_marked_as_background_gives_way(narrow: RunningService) -> None:
    user = narrow.new_user("--background")
    bucket = narrow.new_bucket(user.keys)
    narrow.s3(user.keys).put_object(Bucket=bucket, Key="key", Body=b"content")
    assert next(account for account in narrow.ask("user", "list") if account["name"] == user.name)["background"]

    before = metric(narrow, "seawall_gate_requests_total", **{"class": "background"})
    for _ in range(3):
        narrow.s3(user.keys).get_object(Bucket=bucket, Key="key")

    deadline_s = time.monotonic() + 5.0
    while metric(narrow, "seawall_gate_requests_total", **{"class": "background"}) < before + 3:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_without_its_protections_the_service_opens_a_connection_for_each_request(start_service: StartService) -> None:
    service = start_service(
        SEAWALL_DRILL_HOLD_S="0.2", SEAWALL_DRILL_UNPROTECTED="true", SEAWALL_DRILL_CONNECTIONS_MAX="60"
    )
    bucket = service.new_bucket()
    service.s3().put_object(Bucket=bucket, Key="key", Body=b"content")

    answers = crowd(service, lambda: Request(method="GET", path=f"/{bucket}/key"), threads=100, seconds=3.0)

    statuses = {status for status, _, _ in answers}
    assert 200 in statuses
    assert statuses - {200} <= {500, 503}
    assert len(statuses) > 1
    refused = re.findall(r"too many (?:clients|connections)", service_log(service))
    assert refused


def service_log(service: RunningService) -> str:
    """What PostgreSQL and the service wrote."""
    logs = [
        service.log_path,
        *(service.data_dir / "log").glob("postgresql*"),
        *(service.data_dir / "pg").glob("**/*.log"),
    ]
    return "".join(path.read_text(errors="replace") for path in logs if path.is_file())


def test_the_commands_help_names_what_is_for_drills_only() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "seawall", "up", "--help"], capture_output=True, text=True, check=True
    )

    assert "--drill-unprotected" in done.stdout
    assert "Drills only" in done.stdout
