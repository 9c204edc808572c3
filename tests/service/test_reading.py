"""Reading objects behaves as S3 does: conditions, ranges, parts, overrides, attributes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client
from tests.service.kit import pattern

SIZES = {"inline": 1000, "segment": 50_000, "large record": 600_000, "file": 3_000_000}
PART = 5 * 1024 * 1024


def status_of(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def header_of(answer: Any, name: str) -> str | None:
    value = answer["ResponseMetadata"]["HTTPHeaders"].get(name)
    return None if value is None else str(value)


@pytest.fixture(params=SIZES)
def stored(request: pytest.FixtureRequest, s3: S3Client, bucket: str) -> tuple[str, bytes]:
    """The bucket of an object of each way to keep one, and its bytes."""
    body = pattern(SIZES[request.param], seed=7)
    s3.put_object(Bucket=bucket, Key="key", Body=body, ContentType="text/plain")
    return bucket, body


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9", 0, 10),
        ("bytes=5-5", 5, 6),
        ("bytes=100-", 100, None),
        ("bytes=-1", -1, None),
        ("bytes=-100", -100, None),
        ("bytes=-99999999", 0, None),
        ("bytes=990-99999999", 990, None),
        ("Bytes=1-2", 1, 3),
    ],
)
def test_one_range_is_served(
    s3: S3Client, stored: tuple[str, bytes], header: str, start: int, stop: int | None
) -> None:
    bucket, body = stored
    expected = body[start:stop]

    answer = s3.get_object(Bucket=bucket, Key="key", Range=header)
    looked = s3.head_object(Bucket=bucket, Key="key", Range=header)

    assert answer["Body"].read() == expected
    assert status_of_answer(answer) == status_of_answer(looked) == 206
    first = len(body) + start if start < 0 else start
    assert answer["ContentRange"] == f"bytes {first}-{first + len(expected) - 1}/{len(body)}"
    assert looked["ContentLength"] == len(expected)


def status_of_answer(answer: Any) -> int:
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


@pytest.mark.parametrize("header", ["bytes=0-1,3-4", "bytes=", "bytes=-", "bytes=a-b", "items=0-1", "bytes=9-1"])
def test_several_ranges_or_none_give_the_whole_object(s3: S3Client, stored: tuple[str, bytes], header: str) -> None:
    bucket, body = stored

    answer = s3.get_object(Bucket=bucket, Key="key", Range=header)

    assert status_of_answer(answer) == 200
    assert answer["Body"].read() == body


@pytest.mark.parametrize("header", ["bytes=3000000-", "bytes=9999999-99999999", "bytes=-0"])
def test_a_range_behind_the_end_is_refused_with_the_size(s3: S3Client, stored: tuple[str, bytes], header: str) -> None:
    bucket, body = stored

    with pytest.raises(ClientError) as refusal:
        s3.get_object(Bucket=bucket, Key="key", Range=header)

    assert status_of(refusal.value) == 416
    assert refusal.value.response["Error"]["Code"] == "InvalidRange"
    assert header_of(refusal.value.response, "content-range") == f"bytes */{len(body)}"


def test_an_empty_object_has_no_range(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")

    with pytest.raises(ClientError) as refusal:
        s3.get_object(Bucket=bucket, Key="empty", Range="bytes=0-")

    assert status_of(refusal.value) == 416
    assert s3.get_object(Bucket=bucket, Key="empty")["Body"].read() == b""


SAME, OTHER = "same", '"00000000000000000000000000000000"'
PAST, FUTURE = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    ("conditions", "status"),
    [
        ({"IfMatch": SAME}, 200),
        ({"IfMatch": "*"}, 200),
        ({"IfMatch": OTHER}, 412),
        ({"IfNoneMatch": SAME}, 304),
        ({"IfNoneMatch": "*"}, 304),
        ({"IfNoneMatch": OTHER}, 200),
        ({"IfModifiedSince": PAST}, 200),
        ({"IfModifiedSince": FUTURE}, 304),
        ({"IfUnmodifiedSince": PAST}, 412),
        ({"IfUnmodifiedSince": FUTURE}, 200),
        # The combinations the API Reference spells out.
        ({"IfMatch": SAME, "IfUnmodifiedSince": PAST}, 200),
        ({"IfNoneMatch": SAME, "IfModifiedSince": PAST}, 304),
        ({"IfNoneMatch": OTHER, "IfModifiedSince": FUTURE}, 200),
        ({"IfMatch": OTHER, "IfNoneMatch": SAME}, 412),
    ],
)
def test_conditions_decide_whether_an_object_is_read(
    s3: S3Client, bucket: str, conditions: dict[str, Any], status: int
) -> None:
    etag = s3.put_object(Bucket=bucket, Key="key", Body=b"body")["ETag"]
    given = {name: etag if value == SAME else value for name, value in conditions.items()}

    reads: list[Callable[..., Any]] = [s3.get_object, s3.head_object]
    for read in reads:
        if status == 200:
            assert status_of_answer(read(Bucket=bucket, Key="key", **given)) == 200
            continue
        with pytest.raises(ClientError) as refusal:
            read(Bucket=bucket, Key="key", **given)
        assert status_of(refusal.value) == status
        assert status != 304 or header_of(refusal.value.response, "etag") == etag


def test_the_answers_headers_can_be_overridden(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"body", ContentType="text/plain", CacheControl="no-cache")

    answer = s3.get_object(
        Bucket=bucket,
        Key="key",
        ResponseContentType="image/png",
        ResponseContentDisposition='attachment; filename="Zürich.png"',
        ResponseCacheControl="max-age=1",
        ResponseContentLanguage="de",
        ResponseContentEncoding="identity",
        ResponseExpires=datetime(2030, 1, 1, tzinfo=UTC),
    )

    assert answer["ContentType"] == "image/png"
    assert answer["CacheControl"] == "max-age=1"
    assert answer["ContentLanguage"] == "de"
    assert answer["ContentEncoding"] == "identity"
    assert "2030" in str(header_of(answer, "expires"))
    disposition = header_of(answer, "content-disposition")
    assert disposition is not None
    assert disposition.encode("latin-1").decode() == 'attachment; filename="Zürich.png"'


def test_an_override_cannot_add_a_header(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"body")

    with pytest.raises(ClientError) as refusal:
        s3.get_object(Bucket=bucket, Key="key", ResponseContentType="text/html\r\nSet-Cookie: a=b")

    assert status_of(refusal.value) == 400


def test_what_the_writer_said_comes_back(s3: S3Client, bucket: str) -> None:
    said: dict[str, Any] = {
        "CacheControl": "max-age=60",
        "ContentDisposition": "attachment",
        "ContentEncoding": "gzip",
        "ContentLanguage": "de",
        "ContentType": "application/x-test",
        "Metadata": {"colour": "blue", "empty": "", "with-dash": "a b  c"},
    }
    s3.put_object(Bucket=bucket, Key="key", Body=b"body", Expires=datetime(2030, 1, 1, tzinfo=UTC), **said)

    for answer in (s3.get_object(Bucket=bucket, Key="key"), s3.head_object(Bucket=bucket, Key="key")):
        seen = {name: answer[name] for name in said}  # type: ignore[literal-required]
        seen["Metadata"] = dict(seen["Metadata"])
        assert seen["ContentEncoding"] == "gzip"
        assert {**seen, "Metadata": {**seen["Metadata"], "with-dash": "a b  c"}} == said


def test_an_object_of_parts_is_read_by_part_by_range_and_as_a_whole(s3: S3Client, bucket: str) -> None:
    bodies = [pattern(PART, seed=1), pattern(PART + 1, seed=2), pattern(10, seed=3)]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="key")["UploadId"]
    parts = []
    for number, body in zip((2, 5, 9), bodies, strict=True):
        part = s3.upload_part(Bucket=bucket, Key="key", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key="key",
        UploadId=upload,
        MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
    )
    whole = b"".join(bodies)

    assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == whole
    for rank, body in enumerate(bodies, 1):
        answer = s3.get_object(Bucket=bucket, Key="key", PartNumber=rank)
        assert answer["Body"].read() == body
        assert answer["PartsCount"] == 3
        assert s3.head_object(Bucket=bucket, Key="key", PartNumber=rank)["ContentLength"] == len(body)
    for start, stop in ((0, 1), (PART - 1, PART + 1), (PART, 2 * PART), (2 * PART, len(whole)), (len(whole) - 1, None)):
        header = f"bytes={start}-{'' if stop is None else stop - 1}"
        assert s3.get_object(Bucket=bucket, Key="key", Range=header)["Body"].read() == whole[start:stop]
    with pytest.raises(ClientError) as refusal:
        s3.get_object(Bucket=bucket, Key="key", PartNumber=4)
    assert status_of(refusal.value) == 416

    attributes = s3.get_object_attributes(
        Bucket=bucket, Key="key", ObjectAttributes=["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    )
    assert attributes["ObjectSize"] == len(whole)
    assert attributes["ObjectParts"]["TotalPartsCount"] == 3
    assert attributes["ETag"].endswith("-3")


def test_a_key_that_is_not_there_is_said_so_and_to_head_without_a_body(s3: S3Client, bucket: str) -> None:
    with pytest.raises(ClientError) as refusal:
        s3.get_object(Bucket=bucket, Key="nothing")
    assert refusal.value.response["Error"]["Code"] == "NoSuchKey"

    with pytest.raises(ClientError) as refusal:
        s3.head_object(Bucket=bucket, Key="nothing")
    assert status_of(refusal.value) == 404

    with pytest.raises(ClientError) as refusal:
        s3.get_object(Bucket=f"{bucket}-not", Key="nothing")
    assert refusal.value.response["Error"]["Code"] == "NoSuchBucket"


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_copy_has_the_same_bytes_and_either_description(s3: S3Client, bucket: str, size: int) -> None:
    body = pattern(size, seed=3)
    put = s3.put_object(Bucket=bucket, Key="a", Body=body, ContentType="text/a", Metadata={"a": "1"})
    source = {"Bucket": bucket, "Key": "a"}

    copied = s3.copy_object(Bucket=bucket, Key="b", CopySource=source)  # type: ignore[arg-type]
    replaced = s3.copy_object(
        Bucket=bucket,
        Key="c",
        CopySource=source,  # type: ignore[arg-type]
        MetadataDirective="REPLACE",
        ContentType="text/c",
        Metadata={"c": "1"},
        ChecksumAlgorithm="SHA256",
    )
    s3.put_object(Bucket=bucket, Key="a", Body=b"other")

    assert copied["CopyObjectResult"]["ETag"] == replaced["CopyObjectResult"]["ETag"] == put["ETag"]
    second, third = s3.get_object(Bucket=bucket, Key="b"), s3.get_object(Bucket=bucket, Key="c")
    assert second["Body"].read() == third["Body"].read() == body
    assert (second["ContentType"], second["Metadata"]) == ("text/a", {"a": "1"})
    assert (third["ContentType"], third["Metadata"]) == ("text/c", {"c": "1"})
    assert "ChecksumSHA256" in s3.head_object(Bucket=bucket, Key="c", ChecksumMode="ENABLED")


def test_a_copy_onto_itself_must_change_something(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a", Body=b"body")
    source = {"Bucket": bucket, "Key": "a"}

    with pytest.raises(ClientError) as refusal:
        s3.copy_object(Bucket=bucket, Key="a", CopySource=source)  # type: ignore[arg-type]
    assert refusal.value.response["Error"]["Code"] == "InvalidRequest"

    s3.copy_object(
        Bucket=bucket,
        Key="a",
        CopySource=source,  # type: ignore[arg-type]
        MetadataDirective="REPLACE",
        Metadata={"new": "1"},
    )
    assert s3.get_object(Bucket=bucket, Key="a")["Metadata"] == {"new": "1"}


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_every_checksum_boto3_can_make_is_kept_and_given_back(s3: S3Client, bucket: str, algorithm: Any) -> None:
    put = s3.put_object(Bucket=bucket, Key="key", Body=b"body", ChecksumAlgorithm=algorithm)

    answer = s3.get_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")

    name = f"Checksum{algorithm}"
    assert answer[name] == put[name]  # type: ignore[literal-required]
    assert answer["ChecksumType"] == "FULL_OBJECT"
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert listed["ChecksumAlgorithm"] == [algorithm]


def test_a_write_can_depend_on_what_is_there(s3: S3Client, bucket: str) -> None:
    first = s3.put_object(Bucket=bucket, Key="key", Body=b"1", IfNoneMatch="*")["ETag"]

    with pytest.raises(ClientError) as refusal:
        s3.put_object(Bucket=bucket, Key="key", Body=b"2", IfNoneMatch="*")
    assert refusal.value.response["Error"]["Code"] == "PreconditionFailed"
    second = s3.put_object(Bucket=bucket, Key="key", Body=b"2", IfMatch=first)["ETag"]
    with pytest.raises(ClientError) as refusal:
        s3.put_object(Bucket=bucket, Key="key", Body=b"3", IfMatch=first)
    assert refusal.value.response["Error"]["Code"] == "PreconditionFailed"
    with pytest.raises(ClientError) as refusal:
        s3.put_object(Bucket=bucket, Key="nothing", Body=b"3", IfMatch=first)
    assert refusal.value.response["Error"]["Code"] == "NoSuchKey"
    with pytest.raises(ClientError) as refusal:
        s3.delete_object(Bucket=bucket, Key="key", IfMatch=first)
    assert refusal.value.response["Error"]["Code"] == "PreconditionFailed"
    s3.delete_object(Bucket=bucket, Key="key", IfMatch=second)

    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
