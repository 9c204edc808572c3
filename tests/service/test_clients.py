"""Journeys of real clients: what went in comes out, byte for byte, whoever carries it."""

import hashlib
import json
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from boto3.s3.transfer import TransferConfig
from mypy_boto3_s3 import S3Client
from mypy_boto3_s3.type_defs import CompletedPartTypeDef
from tests.service.kit import BIN, KIB, MIB, RunningService, budgeted, clean_environment, files_in, need, pattern

LARGE_BYTES = budgeted(short=40 * MIB, usual=200 * MIB) + 12_345
TREE_FILES_MAX = budgeted(short=250, usual=100_000)
NOT_SOURCE = ("__pycache__", "site-packages", "dist-packages")

AWKWARD = {
    "empty": b"",
    "with space.txt": b"one",
    "plus+and%percent#hash?.txt": b"two",
    "später/日本語/😀.txt": "grüße".encode(),
    "a/b/c/d/e/f/g/deep": b"three",
    "dots..in...names/.hidden": b"four",
    "quote'\"&<tag>;.txt": b"five",
}


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of this interpreter's standard library, and names that clients stumble over."""
    source = Path(sysconfig.get_path("stdlib"))
    tree = tmp_path_factory.mktemp("tree")
    paths = [path for path in sorted(source.rglob("*")) if path.is_file() and not set(path.parts) & {*NOT_SOURCE}]
    for path in paths[:: max(1, len(paths) // TREE_FILES_MAX)]:
        copy = tree / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    for name, content in AWKWARD.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    return tree


@pytest.fixture
def environment(service: RunningService, tmp_path: Path) -> dict[str, str]:
    """What awscli, s3cmd and rclone need to know, and nothing of this machine's owner."""
    home = tmp_path / "home"
    home.mkdir()
    host = service.endpoint.removeprefix("http://")
    (home / ".s3cfg").write_text(
        f"[default]\naccess_key = {service.root.access_key}\nsecret_key = {service.root.secret_key}\n"
        f"host_base = {host}\nhost_bucket = {host}\nuse_https = False\n"
    )
    return {
        **clean_environment(home),
        "AWS_ACCESS_KEY_ID": service.root.access_key,
        "AWS_SECRET_ACCESS_KEY": service.root.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": service.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "RCLONE_CONFIG_SEAWALL_TYPE": "s3",
        "RCLONE_CONFIG_SEAWALL_PROVIDER": "Other",
        "RCLONE_CONFIG_SEAWALL_ENDPOINT": service.endpoint,
        "RCLONE_CONFIG_SEAWALL_ACCESS_KEY_ID": service.root.access_key,
        "RCLONE_CONFIG_SEAWALL_SECRET_ACCESS_KEY": service.root.secret_key,
        "RCLONE_CONFIG_SEAWALL_REGION": "us-east-1",
        "RCLONE_RETRIES": "1",
        "RCLONE_LOW_LEVEL_RETRIES": "1",
    }


def run(environment: Mapping[str, str], program: str, *words: object) -> str:
    """Run a program of this environment to its end and return what it printed."""
    done = subprocess.run(
        [BIN / program, *map(str, words)], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, f"{program} {words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def aws(environment: Mapping[str, str], *words: object) -> Any:
    """Run `aws s3api` and return its answer."""
    printed = run(environment, "aws", "--output", "json", "s3api", *words)
    return json.loads(printed) if printed.strip() else {}


def test_a_tree_that_aws_sends_is_the_tree_that_rclone_fetches(
    environment: dict[str, str], bucket: str, tree: Path, tmp_path: Path
) -> None:
    fetched = tmp_path / "fetched"

    run(environment, "aws", "s3", "sync", "--only-show-errors", tree, f"s3://{bucket}/lib")
    run(environment, "rclone", "copy", "--transfers", "8", f"seawall:{bucket}/lib", fetched)

    assert files_in(fetched) == files_in(tree)


def test_a_second_sync_sends_nothing_and_a_sync_with_delete_takes_away_what_is_gone(
    environment: dict[str, str], bucket: str, s3: S3Client, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    for name, content in AWKWARD.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    run(environment, "aws", "s3", "sync", "--only-show-errors", source, f"s3://{bucket}")

    again = run(environment, "aws", "s3", "sync", source, f"s3://{bucket}")
    (source / "with space.txt").unlink()
    run(environment, "aws", "s3", "sync", "--only-show-errors", "--delete", source, f"s3://{bucket}")

    assert again == ""
    assert {item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]} == {*AWKWARD} - {"with space.txt"}


def test_s3cmd_puts_lists_gets_and_deletes_with_metadata(
    environment: dict[str, str], bucket: str, s3: S3Client, tmp_path: Path
) -> None:
    sent, fetched = tmp_path / "sent", tmp_path / "fetched"
    sent.write_bytes(pattern(3 * MIB + 7))

    run(environment, "s3cmd", "put", "--add-header=x-amz-meta-color:sea green", sent, f"s3://{bucket}/a file")
    listed = run(environment, "s3cmd", "ls", f"s3://{bucket}/")
    told = run(environment, "s3cmd", "info", f"s3://{bucket}/a file")
    run(environment, "s3cmd", "get", f"s3://{bucket}/a file", fetched)
    run(environment, "s3cmd", "del", f"s3://{bucket}/a file")

    assert fetched.read_bytes() == sent.read_bytes()
    assert f"s3://{bucket}/a file" in listed
    assert str(sent.stat().st_size) in listed
    assert "sea green" in told
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_s3cmd_syncs_a_tree_there_and_back_in_parts(environment: dict[str, str], bucket: str, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    for number, size in enumerate([0, 1, 2 * KIB, 2 * KIB + 1, 700 * KIB, 17 * MIB]):
        path = source / f"directory {number % 2}" / f"file+{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pattern(size, seed=number))
    back.mkdir()

    run(environment, "s3cmd", "sync", "--multipart-chunk-size-mb=5", f"{source}/", f"s3://{bucket}/tree/")
    run(environment, "s3cmd", "sync", f"s3://{bucket}/tree/", f"{back}/")

    assert files_in(back) == files_in(source)


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "SHA256", None])
def test_boto3_sends_a_large_file_in_parts_and_fetches_it_in_ranges(
    s3: S3Client, bucket: str, tmp_path: Path, algorithm: str | None
) -> None:
    size = LARGE_BYTES if algorithm is None else 20 * MIB + 1
    sent, fetched = tmp_path / "sent", tmp_path / "fetched"
    sent.write_bytes(pattern(size))
    choices = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=8 * MIB, max_concurrency=8)
    extra = {} if algorithm is None else {"ChecksumAlgorithm": algorithm}

    s3.upload_file(str(sent), bucket, "large", ExtraArgs=extra, Config=choices)
    s3.download_file(bucket, "large", str(fetched), ExtraArgs={"ChecksumMode": "ENABLED"}, Config=choices)
    head = s3.head_object(Bucket=bucket, Key="large", ChecksumMode="ENABLED")

    assert digest_of(fetched) == digest_of(sent)
    assert head["ContentLength"] == size
    assert head["ETag"].endswith(f'-{-(-size // (8 * MIB))}"')
    assert head[f"Checksum{algorithm or 'CRC32'}"]  # type: ignore[literal-required]


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_an_object_keeps_the_checksum_it_was_sent_with(
    s3: S3Client, bucket: str, algorithm: Literal["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
) -> None:
    content = pattern(100_000)

    stored = s3.put_object(Bucket=bucket, Key="key", Body=content, ChecksumAlgorithm=algorithm)
    found = s3.get_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")

    # boto3 computes the checksum again while it reads, and raises where it differs.
    assert found["Body"].read() == content
    name = f"Checksum{algorithm}"
    assert found[name] == stored[name]  # type: ignore[literal-required]


@pytest.mark.parametrize("size", [0, 1, 2048, 2049, 128 * KIB, 128 * KIB + 1, MIB, MIB + 1])
def test_a_body_of_any_size_comes_back_whole_and_in_ranges(s3: S3Client, bucket: str, size: int) -> None:
    content = pattern(size, seed=size)

    stored = s3.put_object(Bucket=bucket, Key="key", Body=content, Metadata={"color": "sea green"})
    found = s3.get_object(Bucket=bucket, Key="key")

    assert found["Body"].read() == content
    assert found["ETag"] == stored["ETag"] == f'"{hashlib.md5(content).hexdigest()}"'
    assert found["Metadata"] == {"color": "sea green"}
    for start, stop in [(0, 1), (size // 2, size), (max(0, size - 1), size)] if size else []:
        part = s3.get_object(Bucket=bucket, Key="key", Range=f"bytes={start}-{stop - 1}")
        assert part["Body"].read() == content[start:stop]
        assert part["ContentRange"] == f"bytes {start}-{stop - 1}/{size}"


def test_curl_fetches_and_sends_by_presigned_urls(
    environment: dict[str, str], s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    curl = need("curl")
    content = pattern(300_000)
    name = "a folder/grüße & more.bin"
    (tmp_path / "sent").write_bytes(content)

    put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": name}, ExpiresIn=60)
    run(environment, curl, "--fail", "--silent", "--upload-file", tmp_path / "sent", put)
    get = s3.generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": name, "ResponseContentType": "text/plain"}, ExpiresIn=60
    )
    told = run(
        environment, curl, "--fail", "--silent", "--output", tmp_path / "got", "--write-out", "%{content_type}", get
    )

    assert (tmp_path / "got").read_bytes() == content
    assert told == "text/plain"


def test_awscli_speaks_the_api_object_by_object(environment: dict[str, str], bucket: str, tmp_path: Path) -> None:
    sent, fetched = tmp_path / "sent", tmp_path / "fetched"
    sent.write_bytes(pattern(500_000))
    etag = f'"{hashlib.md5(sent.read_bytes()).hexdigest()}"'
    named = ["--bucket", bucket, "--key", "dir/one"]

    put = aws(environment, "put-object", *named, "--body", sent, "--metadata", "color=blue", "--content-type", "a/b")
    copied = aws(environment, "copy-object", "--bucket", bucket, "--key", "two", "--copy-source", f"{bucket}/dir/one")
    head = aws(environment, "head-object", *named)
    page = aws(environment, "list-objects-v2", "--bucket", bucket, "--delimiter", "/")
    aws(environment, "get-object", *named, "--range", "bytes=100-299", fetched)
    names = json.dumps({"Objects": [{"Key": "dir/one"}, {"Key": "two"}, {"Key": "never was"}]})
    deleted = aws(environment, "delete-objects", "--bucket", bucket, "--delete", names)

    assert put["ETag"] == copied["CopyObjectResult"]["ETag"] == head["ETag"] == etag
    assert (head["Metadata"], head["ContentType"]) == ({"color": "blue"}, "a/b")
    assert [item["Key"] for item in page["Contents"]] == ["two"]
    assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["dir/"]
    assert fetched.read_bytes() == sent.read_bytes()[100:300]
    assert {item["Key"] for item in deleted["Deleted"]} == {"dir/one", "two", "never was"}
    assert "Contents" not in aws(environment, "list-objects-v2", "--bucket", bucket)


def test_an_upload_in_parts_is_listed_until_it_is_completed_or_aborted(s3: S3Client, bucket: str) -> None:
    first, second = pattern(5 * MIB), pattern(1000, seed=1)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="key")["UploadId"]
    other = s3.create_multipart_upload(Bucket=bucket, Key="other")["UploadId"]

    parts: list[CompletedPartTypeDef] = []
    for number, body in ((2, second), (1, first)):
        part = s3.upload_part(Bucket=bucket, Key="key", UploadId=upload, PartNumber=number, Body=body)
        parts.insert(0, {"PartNumber": number, "ETag": part["ETag"]})
    before = s3.list_multipart_uploads(Bucket=bucket)
    listed = s3.list_parts(Bucket=bucket, Key="key", UploadId=upload)
    s3.complete_multipart_upload(Bucket=bucket, Key="key", UploadId=upload, MultipartUpload={"Parts": parts})
    s3.abort_multipart_upload(Bucket=bucket, Key="other", UploadId=other)

    assert {item["UploadId"] for item in before["Uploads"]} == {upload, other}
    assert [(part["PartNumber"], part["Size"]) for part in listed["Parts"]] == [(1, 5 * MIB), (2, 1000)]
    assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == first + second
    assert s3.get_object(Bucket=bucket, Key="key", PartNumber=2)["Body"].read() == second
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_a_bucket_can_be_a_host_name(
    service: RunningService, s3: S3Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: resolve(
            "127.0.0.1" if str(host).endswith("s3.seawall.test") else host, *rest, **more
        ),
    )
    _, port = service.address
    monkeypatch.setattr(service, "endpoint", f"http://s3.seawall.test:{port}")
    virtual = service.s3(s3={"addressing_style": "virtual"})

    virtual.put_object(Bucket=bucket, Key="a folder/key", Body=b"by host name")
    url = virtual.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a folder/key"})

    assert f"//{bucket}.s3.seawall.test" in url
    assert virtual.get_object(Bucket=bucket, Key="a folder/key")["Body"].read() == b"by host name"
    assert s3.get_object(Bucket=bucket, Key="a folder/key")["Body"].read() == b"by host name"
    assert [item["Key"] for item in virtual.list_objects_v2(Bucket=bucket)["Contents"]] == ["a folder/key"]


def test_rclone_sends_in_parts_and_its_check_finds_no_difference(
    environment: dict[str, str], bucket: str, tmp_path: Path
) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.mkdir()
    for number, size in enumerate([0, 1, 5 * MIB, 12 * MIB + 1, 33 * MIB]):
        (source / f"file {number}").write_bytes(pattern(size, seed=number))

    run(
        environment, "rclone", "copy", "--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M",
        "--metadata", source, f"seawall:{bucket}/dir",
    )  # fmt: skip
    run(environment, "rclone", "check", "--download", source, f"seawall:{bucket}/dir")
    run(environment, "rclone", "check", source, f"seawall:{bucket}/dir")
    run(environment, "rclone", "copy", "--multi-thread-cutoff", "8M", f"seawall:{bucket}/dir", back)
    run(environment, "rclone", "moveto", f"seawall:{bucket}/dir/file 4", f"seawall:{bucket}/moved")
    run(environment, "rclone", "purge", f"seawall:{bucket}/dir")

    assert files_in(back) == files_in(source)
    assert {path.name: path.stat().st_mtime_ns // 10**6 for path in back.iterdir()} == {
        path.name: path.stat().st_mtime_ns // 10**6 for path in source.iterdir()
    }
    assert run(environment, "rclone", "lsf", "--recursive", f"seawall:{bucket}").split() == ["moved"]


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
