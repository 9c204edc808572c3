"""Kill the node, and PostgreSQL, at random moments under load: nothing that was acknowledged is lost.

The ledger is kept outside, by the writers. Each key has one writer, so that its history is a line:
the object is what was acknowledged last, or something that was asked for later and never answered.
"""

import asyncio
import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from mypy_boto3_s3 import S3Client
from mypy_boto3_s3.type_defs import CompletedPartTypeDef
from tests.service.kit import KIB, MIB, RunningService, budgeted, keys_in, wait_until

from seawall.database.local_server import LocalServer
from seawall.objects import sweeper
from seawall.objects.sweeper import Swept
from seawall.service import open_sweeper
from seawall.settings import read_settings

KILLS = budgeted(short=3, usual=10, long=100)
WRITERS = 16
KEYS_EACH = 4
SIZES = [100, 1000, 2 * KIB, 3 * KIB, 50 * KIB, 300 * KIB, MIB, MIB + 1, 3 * MIB]
PART_MIN_BYTES = 5 * MIB
BACK_S = 30.0
# Bodies above this have a file of their own.
SEGMENT_BLOB_MAX_BYTES = MIB

FAILURES = (ClientError, HTTPClientError, BotoCoreError)


@dataclass(frozen=True, slots=True)
class Content:
    """What a writer asked for: a body nobody else has, in parts or in one piece."""

    seed: str
    sizes: tuple[int, ...]
    in_parts: bool = False

    def pieces(self) -> list[bytes]:
        return [random.Random(f"{self.seed} {number}").randbytes(size) for number, size in enumerate(self.sizes)]

    def etag(self) -> str:
        digests = [hashlib.md5(piece) for piece in self.pieces()]
        if not self.in_parts:
            return f'"{digests[0].hexdigest()}"'
        whole = hashlib.md5(b"".join(digest.digest() for digest in digests)).hexdigest()
        return f'"{whole}-{len(digests)}"'

    @property
    def files(self) -> int:
        """How many files of its own it has on the disk."""
        return sum(size > SEGMENT_BLOB_MAX_BYTES for size in self.sizes)


GONE = None
"""The state of a key that was deleted, or never written."""

State = Content | None


@dataclass(slots=True)
class Ledger:
    """What each key may be: the state acknowledged last, and those asked for since. Kept by writers."""

    may_be: dict[str, list[State]] = field(default_factory=dict)
    acknowledged: int = 0
    unanswered: int = 0

    def asked(self, key: str, state: State) -> None:
        self.may_be[key].append(state)

    def answered(self, key: str, state: State) -> None:
        self.may_be[key] = [state]
        self.acknowledged += 1

    def seen(self, key: str, state: State) -> None:
        """What was read once is decided: from now on it is nothing else."""
        self.may_be[key] = [state]


class Writer:
    """Puts, overwrites and deletes its own keys, one request after the other."""

    def __init__(self, number: int, client: S3Client, bucket: str, ledger: Ledger) -> None:
        self._keys = [f"{number:02d}/{letter}" for letter in "abcdefgh"[:KEYS_EACH]]
        self._choices = random.Random(f"writer {number}")
        self._client = client
        self._bucket = bucket
        self._ledger = ledger
        self._serial = 0
        for key in self._keys:
            ledger.may_be[key] = [GONE]

    def write_until(self, enough: threading.Event) -> None:
        while not enough.is_set():
            key = self._choices.choice(self._keys)
            state = self._next_state(key)
            self._ledger.asked(key, state)
            try:
                self._make_so(key, state)
            except FAILURES:
                self._ledger.unanswered += 1
                time.sleep(0.05)
            else:
                self._ledger.answered(key, state)

    def _next_state(self, key: str) -> State:
        self._serial += 1
        seed, die = f"{key} {self._serial}", self._choices.random()
        if die < 0.2:
            return GONE
        if die < 0.24:
            return Content(seed, (PART_MIN_BYTES, self._choices.choice(SIZES)), in_parts=True)
        if die < 0.35:
            return Content(seed, (self._choices.choice(SIZES),), in_parts=True)
        return Content(seed, (self._choices.choice(SIZES),))

    def _make_so(self, key: str, state: State) -> None:
        client, bucket = self._client, self._bucket
        if state is None:
            client.delete_object(Bucket=bucket, Key=key)
        elif not state.in_parts:
            client.put_object(Bucket=bucket, Key=key, Body=state.pieces()[0])
        else:
            upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
            parts: list[CompletedPartTypeDef] = []
            for number, piece in enumerate(state.pieces(), start=1):
                part = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=piece)
                parts.append({"PartNumber": number, "ETag": part["ETag"]})
            client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


def check(client: S3Client, bucket: str, ledger: Ledger) -> None:
    """Compare everything that is there with the ledger, key by key."""
    listed = keys_in(client, bucket)
    assert set(listed) <= set(ledger.may_be)

    def look(key: str) -> None:
        possible = ledger.may_be[key]
        if key not in listed:
            assert GONE in possible, f"{key} was acknowledged and is gone: {possible}"
            ledger.seen(key, GONE)
            return
        found = client.get_object(Bucket=bucket, Key=key)
        body = found["Body"].read()
        matching = [state for state in possible if state is not None and b"".join(state.pieces()) == body]
        assert matching, f"{key} is {len(body)} bytes that nobody may read there any more: {possible}"
        assert found["ETag"] == listed[key] == matching[0].etag()
        ledger.seen(key, matching[0])

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(look, ledger.may_be):
            pass


def serves(client: S3Client, bucket: str) -> bool:
    try:
        client.put_object(Bucket=bucket, Key="probe", Body=b"")
        client.delete_object(Bucket=bucket, Key="probe")
    except FAILURES:
        return False
    return True


@pytest.fixture
def doomed(open_directory: Callable[[], Path]) -> Iterator[RunningService]:
    """A service that is killed again and again. Its segments are small, so that many are begun and sealed."""
    settings = {"SEAWALL_SEGMENT_SIZE_BYTES": str(4 * MIB), "SEAWALL_GARBAGE_GRACE_S": "1"}
    running = RunningService(data_dir=open_directory() / "data", home=open_directory(), settings=settings)
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_whatever_was_acknowledged_before_a_kill_is_there_after_it(
    doomed: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = doomed.s3(connect_timeout=5, read_timeout=20)
    bucket = doomed.new_bucket()
    ledger = Ledger()
    writers = [Writer(number, client, bucket, ledger) for number in range(WRITERS)]
    moments = random.Random()

    for kill in range(KILLS):
        target = doomed.node_pids()[0] if kill % 2 == 0 else doomed.postgres_pids()[0]
        enough = threading.Event()
        with ThreadPoolExecutor(WRITERS) as pool:
            try:
                running = [pool.submit(writer.write_until, enough) for writer in writers]
                time.sleep(moments.uniform(0.2, 2.0))
                os.kill(target, signal.SIGKILL)
                wait_until(lambda: serves(client, bucket), within_s=BACK_S, what="writes succeed again")
                time.sleep(moments.uniform(0.0, 0.5))
            finally:
                enough.set()
            for future in running:
                future.result()
        wait_until(lambda: serves(client, bucket), within_s=BACK_S, what="everything has settled")
        check(client, bucket, ledger)

    # The sweeper may take what a crash left behind, and nothing else: here without its hour of grace.
    doomed.ask("gc", "--grace-s", "0")
    check(client, bucket, ledger)
    monkeypatch.setattr(sweeper, "UNNAMED_AGE_S", 0.0)
    monkeypatch.setattr(sweeper, "LOOK_EVERY_S", 0.0)
    swept = asyncio.run(sweep_twice(doomed.data_dir))
    check(client, bucket, ledger)
    scrubbed = doomed.ask("scrub")
    files = [path for path in (doomed.data_dir / "blobs" / "files").rglob("*") if path.is_file()]
    states = [state for (state,) in ledger.may_be.values() if state is not None]

    assert ledger.acknowledged > KILLS * WRITERS
    assert ledger.unanswered > 0
    assert (scrubbed["missing"], scrubbed["corrupt"]) == ([], [])
    assert len(files) == sum(state.files for state in states) + unfinished_files(client, bucket), swept
    assert doomed.stop() == 0


def unfinished_files(client: S3Client, bucket: str) -> int:
    """Return how many files belong to parts of uploads that a crash left unfinished."""
    count = 0
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        listed = client.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        count += sum(part["Size"] > SEGMENT_BLOB_MAX_BYTES for part in listed.get("Parts", []))
    return count


async def sweep_twice(data_dir: Path) -> Swept:
    """Sweep as the service does; what had no name at the first look and at the second goes."""
    endpoint = LocalServer.find(data_dir)
    assert endpoint is not None
    async with open_sweeper(read_settings({"data_dir": data_dir, "garbage_grace_s": 0.0}), (endpoint,)) as opened:
        await opened.sweep()
        return await opened.sweep()
