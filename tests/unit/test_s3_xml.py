import datetime
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape as sax_escape

import botocore.session
import pytest
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from seawall.s3 import xml
from seawall.s3.errors import S3Error
from seawall.s3.xml import CompletedPart, DeletedObject, ObjectParts, ObjectRow, ObjectToDelete, Owner

SERVICE = botocore.session.get_session().get_service_model("s3")
OWNER = Owner("75aa57f09aa0c8ca", "Änne <root>")
WHEN = datetime.datetime(2009, 10, 12, 17, 5, 3, 123456, datetime.UTC)
ETAG = "fba9dede5f27731c9771645a39863328"
NAMESPACED = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)


def url(key: str) -> str:
    return quote(key, safe="/")


def understood(operation: str, body: bytes) -> dict[str, Any]:
    """Return what botocore makes of an answer."""
    shape = SERVICE.operation_model(operation).output_shape
    assert shape
    answer: dict[str, Any] = create_parser("rest-xml").parse(
        {"body": body, "headers": {}, "status_code": 200, "context": {"operation_name": operation}}, shape
    )
    answer.pop("ResponseMetadata")
    return answer


def sent(operation: str, **parameters: Any) -> bytes:
    """Return the body botocore sends."""
    request = create_serializer("rest-xml").serialize_to_request(parameters, SERVICE.operation_model(operation))
    body: bytes = request["body"]
    return body


def refusal(parse: Callable[[bytes], object], body: bytes) -> S3Error:
    with pytest.raises(S3Error) as refused:
        parse(body)
    return refused.value


# In.


@given(keys=st.lists(KEYS, min_size=1, max_size=5), version_id=st.none() | st.just("null"), quiet=st.booleans())
def test_what_botocore_asks_to_delete_is_understood(*, keys: list[str], version_id: str | None, quiet: bool) -> None:
    objects = [{"Key": key, **({"VersionId": version_id} if version_id else {})} for key in keys]

    request = xml.parse_delete(sent("DeleteObjects", Bucket="b", Delete={"Objects": objects, "Quiet": quiet}))

    assert [item.key for item in request.objects] == keys
    assert {item.version_id for item in request.objects} == {version_id}
    assert request.quiet is quiet


def test_conditions_on_what_to_delete_are_understood() -> None:
    condition = {"Key": "key", "ETag": f'"{ETAG}"', "LastModifiedTime": WHEN, "Size": 5}

    request = xml.parse_delete(sent("DeleteObjects", Bucket="b", Delete={"Objects": [condition]}))

    assert request.objects == [ObjectToDelete("key", None, ETAG, WHEN.replace(microsecond=0), 5)]
    assert request.quiet is False


def test_a_time_may_be_in_iso_8601_too() -> None:
    body = b"<Delete><Object><Key>a</Key><LastModifiedTime>2009-10-12T17:05:03Z</LastModifiedTime></Object></Delete>"

    assert xml.parse_delete(body).objects[0].last_modified == WHEN.replace(microsecond=0)


def test_a_key_is_taken_as_it_stands() -> None:
    body = "<Delete><Object><Key> a&amp;b&#9;<![CDATA[<!DOCTYPE c>]]><!-- no -->&#xfc; </Key></Object></Delete>"

    assert xml.parse_delete(body.encode()).objects[0].key == " a&b\t<!DOCTYPE c>ü "


def test_a_namespace_may_be_missing_prefixed_or_with_a_declaration() -> None:
    plain = "<Delete><Object><Key>a</Key></Object></Delete>"
    prefixed = (
        plain.replace("<", "<s:").replace("<s:/", "</s:").replace("<s:Delete", f"<s:Delete xmlns:s{NAMESPACED[6:]}")
    )
    declared = f'<?xml version="1.0" encoding="UTF-8"?>\n{plain.replace("<Delete", f"<Delete{NAMESPACED}", 1)}\n'

    for body in (plain, prefixed, declared, "\ufeff" + declared):
        assert xml.parse_delete(body.encode()).objects[0].key == "a"


def test_a_thousand_objects_may_be_deleted_at_once_and_no_more() -> None:
    def body(count: int) -> bytes:
        return b"<Delete>%s</Delete>" % (b"<Object><Key>%s</Key></Object>" % (b"k" * 1024) * count)

    assert len(xml.parse_delete(body(1000)).objects) == 1000
    assert refusal(xml.parse_delete, body(1001)).code == "MalformedXML"


@pytest.mark.parametrize(
    "body",
    [
        "",
        " ",
        "Delete",
        "<Delete/>",
        "<Delete><Quiet>true</Quiet></Delete>",
        "<Delete><Object></Object></Delete>",
        "<Delete><Object><Key></Key></Object></Delete>",
        "<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
        "<Delete><Object><Key>a</Key><VersionId></VersionId></Object></Delete>",
        "<Delete><Object><Key>a</Key><Size>many</Size></Object></Delete>",
        "<Delete><Object><Key>a</Key><Size>-1</Size></Object></Delete>",
        "<Delete><Object><Key>a</Key><LastModifiedTime>soon</LastModifiedTime></Object></Delete>",
        "<Delete><Object><Key>a</Key><LastModifiedTime></LastModifiedTime></Object></Delete>",
        "<Delete><Object><Key>a</Key></Object><Quiet>maybe</Quiet></Delete>",
        "<Delete><Object><Key>a</Key></Object><Quiet>true</Quiet><Quiet>true</Quiet></Delete>",
        "<Delete><Object><Key>a</Key><Colour>red</Colour></Object></Delete>",
        "<Delete><Object><Key>a<Key>b</Key></Key></Object></Delete>",
        "<Delete><Object><Object><Key>a</Key></Object></Object></Delete>",
        "<Delete><Key>a</Key></Delete>",
        "<Delete><Object>text<Key>a</Key></Object></Delete>",
        "<Delete>text<Object><Key>a</Key></Object></Delete>",
        "<Delete><Object><Key>a</Key></Object>",
        "<Delete><Object><Key>a</Key></Object></Delete><Delete/>",
        "<Delete><Object><Key>a</Key></Object></Delete>text",
        "<Delete><Object><Key>&#1;</Key></Object></Delete>",
        "<Delete><Object><Key>\1</Key></Object></Delete>",
        "<Delete><Object><Key>&nbsp;</Key></Object></Delete>",
        "<Delete><Object><Key>&#xd800;</Key></Object></Delete>",
        "<Deletion><Object><Key>a</Key></Object></Deletion>",
        '<Delete xmlns="urn:other"><Object><Key>a</Key></Object></Delete>',
        "<!DOCTYPE Delete><Delete><Object><Key>a</Key></Object></Delete>",
        '<!DOCTYPE Delete SYSTEM "http://localhost/x.dtd"><Delete><Object><Key>a</Key></Object></Delete>',
        '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&x;</Key></Object></Delete>',
        '<?xml version="1.0" encoding="ISO-8859-1"?><Delete><Object><Key>a</Key></Object></Delete>',
        '<?xml version="1.0" encoding="UTF-16"?><Delete><Object><Key>a</Key></Object></Delete>',
        f"<Delete><Object><Key>{'a' * 5000}</Key></Object></Delete>",
        f"<Delete><Object><Key>{'&amp;' * 400_000}</Key></Object></Delete>",
        "<Delete>" + "<a>" * 100_000,
        "<Delete>" + "<Object>" * 1_000,
    ],
    ids=lambda body: body[:60],
)
def test_any_other_document_is_malformed(body: str) -> None:
    assert refusal(xml.parse_delete, body.encode()).code == "MalformedXML"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_document_in_another_encoding_is_malformed(encoding: str) -> None:
    body = "<Delete><Object><Key>ü</Key></Object></Delete>".encode(encoding)

    assert refusal(xml.parse_delete, body).code == "MalformedXML"


def test_entities_that_multiply_are_refused() -> None:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE d [<!ENTITY a0 "aaaaaaaaaa">{entities}]><Delete><Object><Key>&a9;</Key></Object></Delete>'

    assert refusal(xml.parse_delete, bomb.encode()).code == "MalformedXML"


@given(st.binary(max_size=200))
def test_nonsense_is_malformed(body: bytes) -> None:
    for parse in (xml.parse_delete, xml.parse_complete_multipart_upload, xml.parse_create_bucket):
        assert refusal(parse, body).code == "MalformedXML"
        assert refusal(parse, b"<Delete><Object><Key>" + body).code == "MalformedXML"


def test_a_body_has_a_size_limit() -> None:
    assert refusal(xml.parse_delete, b" " * (2 * 1024 * 1024 + 1)).code == "MaxMessageLengthExceeded"
    assert refusal(xml.parse_create_bucket, b" " * 20_000).code == "MaxMessageLengthExceeded"


def test_what_botocore_completes_is_understood() -> None:
    parts = [
        {"PartNumber": 1, "ETag": f'"{ETAG}"', "ChecksumCRC32": "AAAAAA=="},
        {"PartNumber": 10_000, "ETag": ETAG, "ChecksumSHA256": "x", "ChecksumXXHASH128": "y"},
    ]

    body = sent("CompleteMultipartUpload", Bucket="b", Key="k", UploadId="u", MultipartUpload={"Parts": parts})

    assert xml.parse_complete_multipart_upload(body) == [
        CompletedPart(1, ETAG, {"CRC32": "AAAAAA=="}),
        CompletedPart(10_000, ETAG, {"SHA256": "x", "XXHASH128": "y"}),
    ]


def test_ten_thousand_parts_may_be_completed_and_no_more() -> None:
    part = f"<Part><PartNumber>1</PartNumber><ETag>{ETAG}</ETag><ChecksumSHA512>{'A' * 88}</ChecksumSHA512></Part>"

    def body(count: int) -> bytes:
        return f"<CompleteMultipartUpload{NAMESPACED}>{part * count}</CompleteMultipartUpload>".encode()

    assert len(xml.parse_complete_multipart_upload(body(10_000))) == 10_000
    assert refusal(xml.parse_complete_multipart_upload, body(10_001)).code == "MalformedXML"


@pytest.mark.parametrize(
    "parts",
    [
        "",
        "<Part><PartNumber>1</PartNumber></Part>",
        "<Part><ETag>a</ETag></Part>",
        "<Part><PartNumber>0</PartNumber><ETag>a</ETag></Part>",
        "<Part><PartNumber>10001</PartNumber><ETag>a</ETag></Part>",
        "<Part><PartNumber>-1</PartNumber><ETag>a</ETag></Part>",
        "<Part><PartNumber>one</PartNumber><ETag>a</ETag></Part>",
        "<Part><PartNumber>²</PartNumber><ETag>a</ETag></Part>",
        f"<Part><PartNumber>{'9' * 5000}</PartNumber><ETag>a</ETag></Part>",
        "<Part><PartNumber>1</PartNumber><ETag>a</ETag><ChecksumCRC16>a</ChecksumCRC16></Part>",
        "<Part><PartNumber>1</PartNumber><PartNumber>1</PartNumber><ETag>a</ETag></Part>",
    ],
    ids=lambda parts: parts[:60],
)
def test_any_other_list_of_parts_is_malformed(parts: str) -> None:
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()

    assert refusal(xml.parse_complete_multipart_upload, body).code == "MalformedXML"


def test_a_bucket_may_be_asked_for_in_a_region() -> None:
    configuration = {"LocationConstraint": "eu-west-1"}

    assert xml.parse_create_bucket(sent("CreateBucket", Bucket="b", CreateBucketConfiguration=configuration)) == (
        "eu-west-1"
    )
    assert xml.parse_create_bucket(b"<CreateBucketConfiguration/>") is None
    assert refusal(xml.parse_create_bucket, b"").code == "MalformedXML"


# Out.


def rows(keys: list[str]) -> list[ObjectRow]:
    return [(key, number, ETAG, WHEN.timestamp(), "") for number, key in enumerate(keys)]


def listed(body: bytes, operation: str = "ListObjectsV2") -> list[str]:
    return [item["Key"] for item in understood(operation, body).get("Contents", [])]


def test_buckets_are_listed() -> None:
    answer = understood(
        "ListBuckets",
        xml.list_buckets([("a", WHEN, "us-east-1"), ("b", WHEN, "eu-west-1")], owner=OWNER, prefix="", next_token="t&"),
    )

    assert answer["Owner"] == {"ID": OWNER.id, "DisplayName": OWNER.display_name}
    assert [bucket["Name"] for bucket in answer["Buckets"]] == ["a", "b"]
    assert answer["Buckets"][1]["BucketRegion"] == "eu-west-1"
    assert answer["Buckets"][0]["CreationDate"] == WHEN.replace(microsecond=123000)
    assert (answer["ContinuationToken"], answer["Prefix"]) == ("t&", "")


@pytest.mark.parametrize(("region", "expected"), [("us-east-1", None), ("eu-west-1", "eu-west-1")])
def test_the_first_region_is_not_named(region: str, expected: str | None) -> None:
    assert (etree.fromstring(xml.location(region)).text or None) == expected
    assert b"LocationConstraint" in xml.location(region)


@given(keys=st.lists(KEYS, max_size=5), prefixes=st.lists(KEYS, max_size=3), url_encoded=st.booleans())
def test_a_listing_is_read_back_as_it_was(*, keys: list[str], prefixes: list[str], url_encoded: bool) -> None:
    encode = url if url_encoded else None

    body = xml.list_objects_v2(
        rows(keys),
        bucket="b",
        prefix="p<",
        delimiter="/",
        max_keys=1000,
        is_truncated=True,
        common_prefixes=prefixes,
        start_after="s&",
        token="t<",
        next_token="n&",
        owner=OWNER,
        encode=encode,
    )
    answer = understood("ListObjectsV2", body)

    assert listed(body) == [encode(key) if encode else key for key in keys]
    assert [item["Prefix"] for item in answer.get("CommonPrefixes", [])] == [
        encode(prefix) if encode else prefix for prefix in prefixes
    ]
    assert answer["KeyCount"] == len(keys) + len(prefixes)
    assert (answer["ContinuationToken"], answer["NextContinuationToken"]) == ("t<", "n&")
    assert answer["StartAfter"] == ("s%26" if encode else "s&")
    assert answer.get("EncodingType") == ("url" if encode else None)
    assert answer["IsTruncated"] is True


def test_an_object_is_listed_with_all_there_is_to_say() -> None:
    row: ObjectRow = ("key", 5, ETAG, WHEN.timestamp(), "CRC32:AAAAAA==-2")

    body = xml.list_objects_v2(
        [row], bucket="b", prefix="", delimiter=None, max_keys=1, is_truncated=False, common_prefixes=[], owner=OWNER
    )

    assert understood("ListObjectsV2", body)["Contents"] == [
        {
            "Key": "key",
            "LastModified": WHEN.replace(microsecond=123000),
            "ETag": f'"{ETAG}"',
            "ChecksumAlgorithm": ["CRC32"],
            "ChecksumType": "COMPOSITE",
            "Size": 5,
            "StorageClass": "STANDARD",
            "Owner": {"ID": OWNER.id, "DisplayName": OWNER.display_name},
        }
    ]


@given(moment=st.datetimes(timezones=st.just(datetime.UTC)).filter(lambda moment: moment.year >= 1000))
def test_a_moment_is_written_to_the_millisecond(moment: datetime.datetime) -> None:
    body = xml.copy_part_result(etag=ETAG, last_modified=moment, checksum=None)

    assert f"<LastModified>{moment.isoformat(timespec='milliseconds')[:23]}Z<".encode() in body


def test_a_listing_of_the_first_version_has_markers_and_owners() -> None:
    body = xml.list_objects(
        rows(["a", "b"]),
        bucket="bucket",
        prefix="",
        marker="0",
        next_marker="b",
        delimiter="/",
        max_keys=2,
        is_truncated=True,
        common_prefixes=[],
        owner=OWNER,
    )
    answer = understood("ListObjects", body)

    assert listed(body, "ListObjects") == ["a", "b"]
    assert answer["Contents"][0]["Owner"]["DisplayName"] == OWNER.display_name
    assert {name: answer[name] for name in ("Name", "Marker", "NextMarker", "Delimiter", "MaxKeys")} == {
        "Name": "bucket",
        "Marker": "0",
        "NextMarker": "b",
        "Delimiter": "/",
        "MaxKeys": 2,
    }


def test_keys_that_xml_cannot_express_are_written_as_references() -> None:
    body = xml.list_objects_v2(
        rows(["plain", "a\1b"]),
        bucket="b",
        prefix="",
        delimiter=None,
        max_keys=2,
        is_truncated=False,
        common_prefixes=["\2"],
    )

    assert b"<Key>a&#x1;b</Key>" in body
    assert b"<Prefix>&#x2;</Prefix>" in body


def test_what_was_deleted_and_what_was_not_is_told() -> None:
    body = xml.delete_result(
        [DeletedObject("a<"), DeletedObject("b", "v1", delete_marker=True, delete_marker_version_id="v2")],
        [("c&", None, S3Error("AccessDenied")), ("d", "v3", S3Error("NoSuchVersion"))],
    )

    assert understood("DeleteObjects", body) == {
        "Deleted": [
            {"Key": "a<"},
            {"Key": "b", "VersionId": "v1", "DeleteMarker": True, "DeleteMarkerVersionId": "v2"},
        ],
        "Errors": [
            {"Key": "c&", "Code": "AccessDenied", "Message": "Access Denied"},
            {
                "Key": "d",
                "VersionId": "v3",
                "Code": "NoSuchVersion",
                "Message": "The specified version does not exist.",
            },
        ],
    }


def test_a_copy_is_told_by_etag_time_and_checksum() -> None:
    copied = understood(
        "CopyObject", xml.copy_object_result(etag=ETAG, last_modified=WHEN, checksum="CRC64NVME:AAAAAAAAAAA=")
    )
    part = understood("UploadPartCopy", xml.copy_part_result(etag=ETAG, last_modified=WHEN, checksum="SHA1:x"))

    assert copied["CopyObjectResult"] == {
        "ETag": f'"{ETAG}"',
        "LastModified": WHEN.replace(microsecond=123000),
        "ChecksumType": "FULL_OBJECT",
        "ChecksumCRC64NVME": "AAAAAAAAAAA=",
    }
    assert part["CopyPartResult"]["ChecksumSHA1"] == "x"


def test_an_upload_is_told_from_start_to_end() -> None:
    started = xml.initiate_multipart_upload(bucket="b", key="k&", upload_id="u")
    completed = xml.complete_multipart_upload(
        location="http://localhost:9000/b/k%26", bucket="b", key="k&", etag=f"{ETAG}-2", checksum="CRC32:AAAAAA==-2"
    )

    assert understood("CreateMultipartUpload", started) == {"Bucket": "b", "Key": "k&", "UploadId": "u"}
    assert understood("CompleteMultipartUpload", completed) == {
        "Location": "http://localhost:9000/b/k%26",
        "Bucket": "b",
        "Key": "k&",
        "ETag": f'"{ETAG}-2"',
        "ChecksumCRC32": "AAAAAA==-2",
        "ChecksumType": "COMPOSITE",
    }


def test_parts_are_listed() -> None:
    body = xml.list_parts(
        [(1, WHEN, ETAG, 5, "CRC32:AAAAAA=="), (2, WHEN, ETAG, 6, None)],
        bucket="b",
        key="k<",
        upload_id="u",
        owner=OWNER,
        marker=0,
        next_marker=2,
        max_parts=2,
        is_truncated=True,
        checksum_algorithm="CRC32",
        checksum_type="COMPOSITE",
    )
    answer = understood("ListParts", body)

    assert [(part["PartNumber"], part["Size"]) for part in answer["Parts"]] == [(1, 5), (2, 6)]
    assert answer["Parts"][0]["ChecksumCRC32"] == "AAAAAA=="
    assert (answer["Key"], answer["NextPartNumberMarker"], answer["IsTruncated"]) == ("k<", 2, True)
    assert (answer["Initiator"]["ID"], answer["Owner"]["ID"]) == (OWNER.id, OWNER.id)
    assert (answer["ChecksumAlgorithm"], answer["ChecksumType"]) == ("CRC32", "COMPOSITE")


def test_uploads_are_listed() -> None:
    body = xml.list_multipart_uploads(
        [("k<", "u1", WHEN), ("k2", "u2", WHEN)],
        bucket="b",
        prefix="k",
        delimiter="/",
        key_marker="",
        upload_id_marker="",
        next_key_marker="k2",
        next_upload_id_marker="u2",
        max_uploads=2,
        is_truncated=True,
        common_prefixes=["k/"],
        owner=OWNER,
    )
    answer = understood("ListMultipartUploads", body)

    assert [(upload["Key"], upload["UploadId"]) for upload in answer["Uploads"]] == [("k<", "u1"), ("k2", "u2")]
    assert answer["Uploads"][0]["Initiated"] == WHEN.replace(microsecond=123000)
    assert (answer["NextKeyMarker"], answer["NextUploadIdMarker"]) == ("k2", "u2")
    assert answer["CommonPrefixes"] == [{"Prefix": "k/"}]


def test_only_the_attributes_asked_for_are_told() -> None:
    parts = ObjectParts(
        parts=[(1, 5, "SHA256:x"), (2, 6, None)], total=2, marker=0, next_marker=2, max_parts=1000, is_truncated=False
    )
    everything = xml.object_attributes(
        etag=ETAG, checksum="SHA256:y-2", parts=parts, storage_class="STANDARD", size_bytes=11
    )

    assert understood("GetObjectAttributes", xml.object_attributes(size_bytes=0)) == {"ObjectSize": 0}
    assert understood("GetObjectAttributes", everything) == {
        "ETag": ETAG,
        "Checksum": {"ChecksumSHA256": "y-2", "ChecksumType": "COMPOSITE"},
        "ObjectParts": {
            "TotalPartsCount": 2,
            "PartNumberMarker": 0,
            "NextPartNumberMarker": 2,
            "MaxParts": 1000,
            "IsTruncated": False,
            "Parts": [{"PartNumber": 1, "Size": 5, "ChecksumSHA256": "x"}, {"PartNumber": 2, "Size": 6}],
        },
        "StorageClass": "STANDARD",
        "ObjectSize": 11,
    }


@given(KEYS)
def test_nothing_is_lost_between_writing_and_reading(key: str) -> None:
    body = f"<Delete><Object><Key>{sax_escape(key)}</Key></Object></Delete>".encode()
    listing = xml.list_objects_v2(
        rows([key]), bucket="b", prefix="", delimiter=None, max_keys=1, is_truncated=False, common_prefixes=[]
    )

    assert [item.key for item in xml.parse_delete(body).objects] == listed(listing)
