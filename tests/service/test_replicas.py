"""The service on a primary and its replicas: it reads there, survives the primary's death, and marks old answers."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.database.cluster import Cluster
from tests.service.conftest import StartService
from tests.service.kit import RunningService, wait_until

RESUMED_S = 5.0


class ClusterInAThread:
    """A cluster beside a test that waits for processes: its loop runs in a thread."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.loop = asyncio.new_event_loop()

    def do(self, what: Any) -> Any:
        """Do something with the cluster and wait for it."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(60.0)

    @property
    def url(self) -> str:
        """All members, the primary not at the front."""
        members = self.cluster.endpoints[::-1]
        one = members[0]
        hosts, ports = ",".join(member.host for member in members), ",".join(str(member.port) for member in members)
        return f"postgresql://{one.user}:{one.password}@/{one.database}?host={hosts}&port={ports}"


@contextmanager
def open_cluster(directory: Path) -> Iterator[ClusterInAThread]:
    beside = ClusterInAThread(Cluster(directory, synchronous=True, quorum=1))
    thread = Thread(target=beside.loop.run_forever)
    thread.start()
    try:
        beside.do(beside.cluster.__aenter__())
        try:
            yield beside
        finally:
            beside.do(beside.cluster.__aexit__(None, None, None))
    finally:
        beside.loop.call_soon_threadsafe(beside.loop.stop)
        thread.join()
        beside.loop.close()


@pytest.fixture
def beside(open_directory: Callable[[], Path]) -> Iterator[ClusterInAThread]:
    with open_cluster(open_directory()) as cluster:
        yield cluster


def metric(service: RunningService, start: str) -> float:
    """Return the sum of a metric's lines that start so."""
    text = service.health("/metrics")[1].decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(start))


def test_the_service_reads_on_replicas_and_follows_a_failover(
    beside: ClusterInAThread, start_service: StartService
) -> None:
    service = start_service(SEAWALL_DATABASE_URL=beside.url, SEAWALL_DATABASE_STALE_READS_S="60")
    s3, bucket = service.s3(), service.new_bucket()
    acknowledged: dict[str, bytes] = {}
    refusals: list[int] = []

    def put(number: int) -> bool:
        key, body = f"key-{number}", f"body-{number}".encode()
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=body)
        except ClientError as error:
            refusals.append(error.response["ResponseMetadata"]["HTTPStatusCode"])
            return False
        acknowledged[key] = body
        return True

    for number in range(50):
        assert put(number)
        for _ in range(4):
            assert s3.get_object(Bucket=bucket, Key=f"key-{number}")["Body"].read() == f"body-{number}".encode()

    def replicas_were_asked() -> bool:
        for number in range(50):
            assert s3.get_object(Bucket=bucket, Key=f"key-{number}")["Body"].read() == f"body-{number}".encode()
        return metric(service, "db_client_replica_reads_total") > 0

    wait_until(replicas_were_asked, within_s=10.0, what="replicas were asked")

    beside.do(beside.cluster.kill_primary())
    wait_until(lambda: metric(service, "db_client_server_up") == 2, within_s=5.0, what="the primary is missed")
    old = s3.get_object(Bucket=bucket, Key="key-0")
    assert old["Body"].read() == b"body-0"
    assert float(old["ResponseMetadata"]["HTTPHeaders"]["x-seawall-stale-s"]) > 0
    assert not put(1000)

    beside.do(beside.cluster.promote(beside.do(beside.cluster.furthest_replica())))
    promoted_s = time.monotonic()
    number = 2000
    while not put(number):
        number += 1
    assert time.monotonic() - promoted_s < RESUMED_S
    assert set(refusals) == {503}
    for key, body in acknowledged.items():
        answer = s3.get_object(Bucket=bucket, Key=key)
        assert answer["Body"].read() == body
        assert "x-seawall-stale-s" not in answer["ResponseMetadata"]["HTTPHeaders"]
    wait_until(service.is_ready, within_s=10.0, what="the node is ready again")
    assert metric(service, "db_client_failovers_total") == 1
