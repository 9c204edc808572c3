"""What Prometheus is given is as Prometheus wants it."""

from mypy_boto3_s3 import S3Client
from tests.monitoring.promtool import run
from tests.service.kit import RunningService


def test_promtool_has_nothing_to_say_of_the_metrics(service: RunningService, s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"counted")
    s3.get_object(Bucket=bucket, Key="key")

    status, text = service.health("/metrics")

    assert status == 200
    assert run("promtool", "check", "metrics", text=text.decode()) == ""
