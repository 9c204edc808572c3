"""The life of a service: started, stopped, killed, looked at, swept and scrubbed."""

import hashlib
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError, HTTPClientError
from mypy_boto3_s3 import S3Client
from prometheus_client.parser import text_string_to_metric_families
from tests.service.conftest import StartService
from tests.service.kit import KIB, MIB, Keys, RunningService, is_alive, keys_in, pattern, stopped, wait_until
from tests.service.signing import Request, head_of, presigned, read_answer, send, signed

from seawall.database.endpoint import Endpoint

BACK_S = 5.0
DATABASE_BACK_S = 20.0

BODIES = {
    "in a row": pattern(1000, seed=1),
    "in a segment": pattern(300 * KIB, seed=2),
    "in a file": pattern(5 * MIB + 5, seed=3),
}
"""One body for each place where bodies are kept."""


def fill(client: S3Client, bucket: str) -> None:
    for key, body in BODIES.items():
        client.put_object(Bucket=bucket, Key=key, Body=body)


def contents(client: S3Client, bucket: str) -> dict[str, bytes]:
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys_in(client, bucket)}


def can_write(client: S3Client, bucket: str) -> Callable[[], bool]:
    """Return a question: does a write succeed now?"""

    def ask() -> bool:
        try:
            client.put_object(Bucket=bucket, Key="are you back?", Body=b"yes")
        except (ClientError, HTTPClientError):
            return False
        return True

    return ask


# Started and stopped.


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """A service that was stopped by Ctrl-C and started again, and what was seen on the way."""

    service: RunningService
    root: Keys
    bucket: str
    exit_code: int
    left_running: list[int]
    banners: tuple[str, str]


@pytest.fixture(scope="module")
def restarted(open_directory: Callable[[], Path]) -> Iterator[Restarted]:
    made_up = {"SEAWALL_ROOT_ACCESS_KEY": "", "SEAWALL_ROOT_SECRET_KEY": ""}
    service = RunningService(data_dir=open_directory() / "data", home=open_directory(), settings=made_up)
    try:
        service.start()
        kept = dict(line.split(" = ") for line in (service.data_dir / "root-credentials").read_text().splitlines())
        service.root = Keys(access_key=kept["access_key"], secret_key=kept["secret_key"])
        bucket = service.new_bucket()
        fill(service.s3(), bucket)
        upload = service.s3().create_multipart_upload(Bucket=bucket, Key="later")["UploadId"]
        service.s3().upload_part(Bucket=bucket, Key="later", UploadId=upload, PartNumber=1, Body=b"part")
        processes = [*service.node_pids(), *service.postgres_pids()]
        exit_code = service.stop()
        left_running = [pid for pid in processes if is_alive(pid)]
        banner = service.banner_path.read_text()
        service.start()
        yield Restarted(
            service=service,
            root=service.root,
            bucket=bucket,
            exit_code=exit_code,
            left_running=left_running,
            banners=(banner, service.banner_path.read_text().removeprefix(banner)),
        )
        assert service.stop() == 0
        assert service.troubles() == []
    finally:
        service.close()


def test_ctrl_c_ends_every_process_in_order(restarted: Restarted) -> None:
    assert restarted.exit_code == 0
    assert restarted.left_running == []


def test_after_a_new_start_everything_is_there(restarted: Restarted) -> None:
    client = restarted.service.s3()
    (upload,) = client.list_multipart_uploads(Bucket=restarted.bucket)["Uploads"]
    (part,) = client.list_parts(Bucket=restarted.bucket, Key="later", UploadId=upload["UploadId"])["Parts"]

    client.complete_multipart_upload(
        Bucket=restarted.bucket,
        Key="later",
        UploadId=upload["UploadId"],
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )

    assert contents(client, restarted.bucket) == {**BODIES, "later": b"part"}


def test_the_roots_keys_are_made_up_shown_once_and_kept_for_root_alone(restarted: Restarted) -> None:
    root, (first, second) = restarted.root, restarted.banners

    assert (restarted.service.data_dir / "root-credentials").stat().st_mode & 0o777 == 0o600
    assert root.access_key in first
    assert root.secret_key in first
    assert "Seawall is ready." in second
    assert root.secret_key not in second
    assert root.secret_key not in restarted.service.log_path.read_text()
    assert restarted.service.s3().list_buckets()["Owner"]["DisplayName"] == "root"


def test_a_second_service_on_the_same_directory_is_refused_in_a_sentence(service: RunningService) -> None:
    assert service.process is not None

    done = service.command("up", "--s3-port", "0", "--console-port", "0", expect=1)

    sentence = f"seawall: Seawall is running on {service.data_dir} already (process {service.process.pid}).\n"
    assert done.stderr.endswith(sentence)
    assert service.is_ready()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SEAWALL_NODES", "many", "The settings cannot be used: nodes: "),
        ("SEAWALL_HEALTH_PORT", "70000", "The settings cannot be used: health_port: "),
        ("SEAWALL_ROOT_SECRET_KEY", "hunter2", "The settings cannot be used: root_secret_key: "),
        ("SEAWALL_DATABASE_URL", "mysql://root:hunter2@db/x", "SEAWALL_DATABASE_URL starts with postgresql://"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_a_sentence(
    tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    nobody = RunningService(data_dir=tmp_path / "data", home=tmp_path, settings={name: value})

    done = nobody.command("up", "--s3-port", "0", "--console-port", "0", expect=1)

    assert done.stderr.startswith(f"seawall: {sentence}")
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr


def test_a_variable_that_looks_like_a_setting_and_is_none_is_warned_of(service: RunningService) -> None:
    (warning,) = [event for event in service.events() if event["event"] == "settings.unknown_variable"]

    assert warning["level"] == "warning"
    assert warning["variable"] == "SEAWALL_S3PORT"


def test_a_port_that_is_taken_is_refused_in_a_sentence(service: RunningService, tmp_path: Path) -> None:
    _, port = service.address
    nobody = RunningService(data_dir=tmp_path / "data", home=tmp_path)

    done = nobody.command("up", "--s3-port", str(port), "--console-port", "0", expect=1)

    assert done.stderr == f"seawall: Cannot listen on 127.0.0.1:{port}: Address already in use.\n"


def test_no_log_holds_a_secret(service: RunningService) -> None:
    user = service.new_user()
    bucket = service.new_bucket(user.keys)
    read = Request(method="GET", path=f"/{bucket}/key")
    link, header = presigned(read, user.keys), signed(read, user.keys)
    service.command("user", "key", user.name)
    for request in (link, header, presigned(read, Keys(access_key="A", secret_key="B")), link.with_headers(Range="x")):
        send(service.address, request)
    passwords = re.findall(r'"([^"]{16,})"', (service.data_dir / "local_server.secrets").read_text())

    wait_until(lambda: read.path.encode() in logged(service), within_s=5, what="the requests are logged")
    said = logged(service) + service.log_path.read_bytes()

    assert len(passwords) == 2
    secrets = [user.keys.secret_key, service.root.secret_key, *passwords]
    secrets += [link.query[-64:], header.headers["Authorization"][-64:]]
    assert [secret for secret in secrets if secret.encode() in said] == []
    assert {path.name for path in logs_of(service) if path.stat().st_mode & 0o077} == set()


def logs_of(service: RunningService) -> list[Path]:
    return [path for path in (service.data_dir / "log").rglob("*") if path.is_file()]


def logged(service: RunningService) -> bytes:
    """Return what stands in all logs on the disk."""
    return b"".join(path.read_bytes() for path in logs_of(service))


def test_a_database_of_ones_own_is_used_instead(start_service: StartService, database_endpoint: Endpoint) -> None:
    service = start_service(SEAWALL_DATABASE_URL=database_endpoint.url)
    bucket = service.new_bucket()

    fill(service.s3(), bucket)
    scrubbed = service.ask("scrub")

    assert contents(service.s3(), bucket) == BODIES
    assert scrubbed["blobs"] == 2
    assert not (service.data_dir / "pg").exists()
    assert service.stop() == 0
    assert database_endpoint.password not in service.log_path.read_text()


# Killed.


@pytest.fixture(scope="module")
def breakable(open_directory: Callable[[], Path]) -> Iterator[RunningService]:
    settings = {"SEAWALL_DATABASE_PATIENCE_S": "2"}
    running = RunningService(data_dir=open_directory() / "data", home=open_directory(), settings=settings)
    try:
        running.start()
        yield running
        assert running.stop() == 0
    finally:
        running.close()


@pytest.fixture
def victim(breakable: RunningService) -> RunningService:
    """A service that may be hurt, for tests that leave it to heal by itself."""
    wait_until(breakable.is_ready, within_s=DATABASE_BACK_S, what="the service has healed")
    return breakable


def test_a_node_that_is_killed_is_started_again_and_serves(victim: RunningService) -> None:
    bucket = victim.new_bucket()
    fill(victim.s3(), bucket)
    (node,) = victim.node_pids()

    os.kill(node, signal.SIGKILL)
    wait_until(lambda: not is_alive(node), within_s=BACK_S, what="the node is dead")
    wait_until(can_write(victim.s3(), bucket), within_s=BACK_S, what="writes succeed again")
    victim.s3().delete_object(Bucket=bucket, Key="are you back?")

    assert victim.node_pids() != [node]
    assert contents(victim.s3(), bucket) == BODIES


def test_postgresql_that_is_killed_comes_back_with_all_it_promised(victim: RunningService) -> None:
    bucket = victim.new_bucket()
    fill(victim.s3(), bucket)
    first = victim.postgres_pids()[0]

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: victim.postgres_pids()[:1] not in ([], [first]), within_s=DATABASE_BACK_S, what="it is back")
    wait_until(can_write(victim.s3(), bucket), within_s=DATABASE_BACK_S, what="writes succeed again")
    victim.s3().delete_object(Bucket=bucket, Key="are you back?")

    assert contents(victim.s3(), bucket) == BODIES
    wait_until(victim.is_ready, within_s=BACK_S, what="the service says that it is ready")


def test_without_an_answer_from_postgresql_the_service_is_alive_but_not_ready(victim: RunningService) -> None:
    bucket = victim.new_bucket()

    with stopped(victim.postgres_pids()):
        status, body = wait_until(
            lambda: (answer := victim.health("/readyz"))[0] == 503 and answer,
            within_s=10,
            what="/readyz says no",
        )  # type: ignore[misc]
        alive = victim.health("/healthz")
        told = victim.command("status", expect=1).stdout
        answer = send(victim.address, signed(Request(method="PUT", path=f"/{bucket}/key", body=b"late"), victim.root))
    wait_until(victim.is_ready, within_s=BACK_S, what="it is ready again")

    assert status == 503
    assert body == b'{"ready": false, "reason": "the database does not answer"}\n'
    assert alive == (200, b'{"alive": true}\n')
    assert told.startswith("not ready: the database does not answer\n")
    assert answer.status == 503
    assert answer.code in {"SlowDown", "ServiceUnavailable"}


def test_a_node_that_is_told_to_stop_finishes_a_slow_download(victim: RunningService) -> None:
    bucket = victim.new_bucket()
    body = pattern(48 * MIB, seed=4)
    victim.s3().put_object(Bucket=bucket, Key="large", Body=body)
    (node,) = victim.node_pids()

    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        connection.connect(victim.address)
        connection.sendall(head_of(signed(Request(method="GET", path=f"/{bucket}/large"), victim.root)))
        begun = connection.recv(1000, socket.MSG_PEEK)
        os.kill(node, signal.SIGTERM)
        time.sleep(1)
        lives = is_alive(node)
        answer = read_answer(connection)
    wait_until(can_write(victim.s3(), bucket), within_s=BACK_S, what="another node serves")

    assert begun.startswith(b"HTTP/1.1 200 OK\r\n")
    assert lives
    assert answer.body == body
    assert not is_alive(node)


def test_a_node_that_is_told_to_stop_finishes_a_slow_upload(victim: RunningService) -> None:
    bucket = victim.new_bucket()
    body = pattern(8 * MIB, seed=5)
    (node,) = victim.node_pids()
    request = signed(Request(method="PUT", path=f"/{bucket}/large", body=body), victim.root)

    with socket.create_connection(victim.address, timeout=30) as connection:
        connection.sendall(head_of(request.with_headers(Content_Length=str(len(body)))) + body[: 3 * MIB])
        time.sleep(0.5)
        os.kill(node, signal.SIGTERM)
        time.sleep(1)
        lives = is_alive(node)
        connection.sendall(body[3 * MIB :])
        answer = read_answer(connection, method="PUT")
    wait_until(can_write(victim.s3(), bucket), within_s=BACK_S, what="another node serves")

    assert lives
    assert answer.status == 200
    assert answer.headers["connection"] == "close"
    assert victim.s3().get_object(Bucket=bucket, Key="large")["Body"].read() == body


def test_nodes_outlive_a_keeper_that_is_killed_and_the_next_one_takes_over(victim: RunningService) -> None:
    bucket = victim.new_bucket()
    fill(victim.s3(), bucket)
    assert victim.process is not None
    strays = [*victim.node_pids(), *victim.postgres_pids()]

    victim.process.kill()
    victim.process.wait()
    time.sleep(1)
    victim.s3().put_object(Bucket=bucket, Key="without a keeper", Body=b"served")
    alone = contents(victim.s3(), bucket)
    victim.start()

    assert alone == {**BODIES, "without a keeper": b"served"}
    assert contents(victim.s3(), bucket) == alone
    assert [pid for pid in strays if is_alive(pid)] == []


# Looked at.


def test_the_metrics_can_be_parsed_and_count_what_was_asked(service: RunningService, s3: S3Client) -> None:
    bucket = service.new_bucket()
    s3.put_object(Bucket=bucket, Key="key", Body=b"counted")

    def counted() -> float:
        status, text = service.health("/metrics")
        assert status == 200
        families = {family.name: family for family in text_string_to_metric_families(text.decode())}
        durations = families["http_server_request_duration_seconds"]
        assert durations.type == "histogram"
        return sum(
            sample.value
            for sample in durations.samples
            if sample.name.endswith("_count") and sample.labels["operation"] == "PutObject"
        )

    before = wait_until(counted, within_s=5, what="the first request is counted")
    s3.put_object(Bucket=bucket, Key="key", Body=b"counted")

    wait_until(lambda: counted() > before, within_s=5, what="one more request is counted")


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/healthz", 200, b'{"alive": true}\n'),
        ("/readyz", 200, b'{"ready": true, "reason": ""}\n'),
        ("/elsewhere", 404, None),
    ],
)
def test_the_console_answers_load_balancers(
    service: RunningService, path: str, status: int, body: bytes | None
) -> None:
    answer = service.health(path)

    assert answer[0] == status
    assert body is None or answer[1] == body


# Swept and scrubbed.


def blob_files(service: RunningService) -> dict[str, int]:
    """Return the size of every file that holds bytes of objects."""
    blobs = service.data_dir / "blobs"
    return {
        str(path.relative_to(blobs)): path.stat().st_size
        for path in blobs.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_what_was_deleted_frees_the_disk_and_what_was_not_is_fine(start_service: StartService) -> None:
    service = start_service(SEAWALL_SEGMENT_SIZE_BYTES=str(MIB))
    client = service.s3()
    kept, deleted = service.new_bucket(), service.new_bucket()
    with ThreadPoolExecutor(8) as pool:
        for number in range(16):
            for key, body in BODIES.items():
                pool.submit(client.put_object, Bucket=deleted, Key=f"{number} {key}", Body=body)
    fill(client, kept)
    before = blob_files(service)

    for key in keys_in(client, deleted):
        client.delete_object(Bucket=deleted, Key=key)
    swept = service.ask("gc", "--grace-s", "0", "--compact-above", "0")
    # What was compacted leaves its old place free for the next round.
    again = service.ask("gc", "--grace-s", "0")
    after = blob_files(service)
    scrubbed = service.ask("scrub")

    assert sum(before.values()) > 16 * sum(map(len, BODIES.values())) - 16 * 2 * KIB
    assert swept["files_removed"] == 16
    assert swept["segments_removed"] + swept["segments_compacted"] + again["segments_removed"] >= 4
    assert len([name for name in after if name.startswith("files/")]) == 1
    # One segment may be open still, and one holds the object that was kept.
    assert sum(after.values()) < len(BODIES["in a file"]) + 3 * MIB
    assert contents(client, kept) == BODIES
    assert scrubbed == {
        "blobs": 2,
        "size_bytes": len(BODIES["in a segment"]) + len(BODIES["in a file"]),
        "missing": [],
        "corrupt": [],
    }


FLIPS = {
    "in a segment": (100 * KIB, 50_000),
    "in the first MiB of a file": (3 * MIB, 5),
    "in its second MiB": (3 * MIB, MIB + 5),
    "the last of a file": (3 * MIB, 3 * MIB - 1),
}
"""How long a body is, and which of its bytes is another on the disk."""


def body_of(name: str) -> bytes:
    return random.Random(name).randbytes(FLIPS[name][0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotten:
    """A service with a bucket in which every second object was spoiled, and what scrub says of it."""

    service: RunningService
    bucket: str
    scrubbed: dict[str, list[str]]


@pytest.fixture(scope="module")
def rotten(breakable: RunningService) -> Rotten:
    bucket = breakable.new_bucket()
    for name, (_, at) in FLIPS.items():
        breakable.s3().put_object(Bucket=bucket, Key=name, Body=body_of(name))
        flip(breakable.data_dir / "blobs", body_of(name), at)
        breakable.s3().put_object(Bucket=bucket, Key=f"sound: {name}", Body=body_of(name))
    return Rotten(service=breakable, bucket=bucket, scrubbed=breakable.ask("scrub", expect=1))


def test_scrub_finds_every_flipped_byte_and_blames_nothing_else(rotten: Rotten) -> None:
    blamed = [re.match(r"key '(.*)' of bucket \d+: ", line) for line in rotten.scrubbed["corrupt"]]

    assert sorted(found[1] for found in blamed if found) == sorted(FLIPS)
    assert len(blamed) == len(FLIPS)
    assert rotten.scrubbed["missing"] == []


@pytest.mark.parametrize("name", FLIPS)
def test_a_flipped_byte_is_never_served(victim: RunningService, rotten: Rotten, name: str) -> None:
    size, at = FLIPS[name]
    read = Request(method="GET", path=f"/{rotten.bucket}/{quote(name)}")

    with socket.create_connection(victim.address, timeout=30) as connection:
        connection.sendall(head_of(signed(read, victim.root)))
        received = all_of(connection)
    head, _, delivered = received.partition(b"\r\n\r\n")

    if at < MIB:
        assert head.startswith(b"HTTP/1.1 500 ")
        assert b"<Code>InternalError</Code>" in delivered
    else:
        # It was found too late to say so: the connection ends before the length that was announced.
        assert f"Content-Length: {size}".encode() in head
        assert len(delivered) <= at
        assert body_of(name).startswith(delivered)
    sound = victim.s3().get_object(Bucket=rotten.bucket, Key=f"sound: {name}")
    assert sound["Body"].read() == body_of(name)


def all_of(connection: socket.socket) -> bytes:
    """Return everything that comes, until the connection is closed or reset."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(MIB):
            received += data
    return received


def flip(blobs: Path, body: bytes, at: int) -> None:
    """Change one byte of one of the places where a body is stored."""
    for path in sorted(path for path in blobs.rglob("*") if path.is_file()):
        with path.open("r+b") as file:
            content = file.read()
            start = content.find(body)
            if start >= 0:
                file.seek(start + at)
                file.write(bytes([content[start + at] ^ 1]))
                return
    pytest.fail("the body is nowhere")


def test_a_digest_of_the_body_survives_every_kind_of_place(service: RunningService, s3: S3Client) -> None:
    bucket = service.new_bucket()
    fill(s3, bucket)

    assert keys_in(s3, bucket) == {key: f'"{hashlib.md5(body).hexdigest()}"' for key, body in BODIES.items()}
