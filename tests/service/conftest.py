"""What tests of the running service need: the service itself, on real ports, and clients of it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client
from tests.service.kit import RunningService

StartService = Callable[..., RunningService]


@pytest.fixture(scope="session")
def service(open_directory: Callable[[], Path]) -> Iterator[RunningService]:
    """One service for all tests that do it no harm. At the end it stops in order, with nothing to complain of."""
    # A domain for buckets as host names; and a slip of the pen.
    settings = {"SEAWALL_DOMAINS": "s3.seawall.test", "SEAWALL_S3PORT": "9000"}
    running = RunningService(data_dir=open_directory() / "data", home=open_directory(), settings=settings)
    try:
        running.start()
        status = running.ask("status")
        assert (status["s3"], status["console"]) == (running.endpoint, running.console)
        yield running
        assert running.stop() == 0
        assert running.troubles() == []
    finally:
        running.close()


@pytest.fixture
def start_service(open_directory: Callable[[], Path]) -> Iterator[StartService]:
    """Starts services of a test's own, which it may break: `start_service(SEAWALL_NODES="2")`."""
    with ExitStack() as stack:

        def start(*, data_dir: Path | None = None, **settings: str) -> RunningService:
            place = data_dir or open_directory() / "data"
            running = RunningService(data_dir=place, home=open_directory(), settings=settings)
            stack.callback(running.close)
            running.start()
            return running

        yield start


@pytest.fixture
def s3(service: RunningService) -> S3Client:
    """A boto3 client of the root account."""
    return service.s3()


@pytest.fixture
def bucket(service: RunningService) -> str:
    """An empty bucket of the root account."""
    return service.new_bucket()
