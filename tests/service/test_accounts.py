"""Who may do what: accounts through the command line, and every form of authentication on every verb.

Whatever is not granted is denied, and what was denied has changed nothing.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
from botocore.exceptions import ClientError
from tests.service.kit import Keys, RunningService, User, budgeted, keys_in, wait_until
from tests.service.signing import (
    Request,
    Signer,
    chunk_signed,
    chunk_signed_with_trailer,
    md5,
    presigned,
    send,
    signed,
    signed_without_body,
    unsigned_trailer,
)

from seawall.s3.operations import OPERATIONS

CONTENT = b"what the owner wrote"
REVOKED_WITHIN_S = 1.0
MORE_COMMANDS = [["user", "list", "--json"], ["user", "add", "ada"], ["gc"], ["migrate"]]


# The command line.


def test_an_account_that_is_added_is_listed_without_its_secret_and_can_sign_in_at_once(
    service: RunningService,
) -> None:
    keys = Keys(
        **service.ask(
            "user", "add", "ada", "--id", "ada-1", "--display-name", "Ada L.", "--email", "ada@example.org",
            "--access-key", "ADAKEY", "--secret-key", "ada-has-a-secret",
        )
    )  # fmt: skip
    buckets = service.s3(keys).list_buckets()
    listed = service.command("user", "list", "--json").stdout
    (account,) = [account for account in service.ask("user", "list") if account["name"] == "ada"]

    assert keys == Keys(access_key="ADAKEY", secret_key="ada-has-a-secret")
    assert buckets["Buckets"] == []
    assert buckets["Owner"] == {"ID": "ada-1", "DisplayName": "Ada L."}
    assert keys.secret_key not in listed
    assert account.pop("created_at")
    assert account == {
        "name": "ada",
        "id": "ada-1",
        "display_name": "Ada L.",
        "email": "ada@example.org",
        "admin": False,
        "background": False,
        "access_keys": ["ADAKEY"],
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["user", "add", "root"], "There is an account named root already, or one with its id."),
        (["user", "add", "somebody", "--access-key", "SWTESTROOT"], "The access key SWTESTROOT is in use already."),
        (["user", "add", "no spaces"], "An account's name has 1 to 64 letters, digits and . _ @ + -"),
        (["user", "remove", "nobody"], "There is no account named nobody."),
        (["user", "key", "nobody"], "There is no account named nobody."),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_exits_with_1(
    service: RunningService, words: list[str], sentence: str
) -> None:
    done = service.command(*words, expect=1)

    assert done.stderr == f"seawall: {sentence}\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words",
    [["status"], ["scrub", "--json"], *budgeted(short=[], usual=MORE_COMMANDS)],
    ids=" ".join,
)
def test_a_command_without_a_service_says_so_and_exits_with_2(tmp_path: Path, words: list[str]) -> None:
    nobody = RunningService(data_dir=tmp_path / "data", home=tmp_path)

    done = nobody.command(*words, expect=2)

    assert done.stderr.startswith("seawall: No service is running on ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_replaced_key_stops_working_within_a_second_and_the_new_one_works_at_once(service: RunningService) -> None:
    user = service.new_user()
    before = service.s3(user.keys)
    bucket = service.new_bucket(user.keys)

    keys = Keys(**service.ask("user", "key", user.name))
    replaced_s = time.monotonic()
    service.s3(keys).put_object(Bucket=bucket, Key="key", Body=b"by the new key")
    wait_until(
        lambda: refusal(lambda: before.head_bucket(Bucket=bucket)) == "403",
        within_s=REVOKED_WITHIN_S,
        what="the old key is refused",
    )

    assert time.monotonic() - replaced_s < REVOKED_WITHIN_S
    assert refusal(before.list_buckets) == "InvalidAccessKeyId"
    assert service.s3(keys).get_object(Bucket=bucket, Key="key")["Body"].read() == b"by the new key"


def test_a_removed_account_cannot_sign_in_a_second_later(service: RunningService) -> None:
    user = service.new_user()
    client = service.s3(user.keys)
    client.list_buckets()

    service.command("user", "remove", user.name)

    wait_until(
        lambda: refusal(client.list_buckets) == "InvalidAccessKeyId",
        within_s=REVOKED_WITHIN_S,
        what="the account is refused",
    )
    assert user.name not in {account["name"] for account in service.ask("user", "list")}


def test_an_account_that_owns_buckets_is_not_removed(service: RunningService, owner: User) -> None:
    bucket = service.new_bucket(owner.keys)

    done = service.command("user", "remove", owner.name, expect=1)

    assert done.stderr == f"seawall: {owner.name} still owns buckets: delete them first.\n"
    service.s3(owner.keys).head_bucket(Bucket=bucket)


def test_an_administrator_may_use_the_buckets_of_others(service: RunningService, owner: User) -> None:
    administrator = service.new_user("--admin")
    bucket = service.new_bucket(owner.keys)

    service.s3(administrator.keys).put_object(Bucket=bucket, Key="key", Body=CONTENT)

    assert service.s3(owner.keys).get_object(Bucket=bucket, Key="key")["Body"].read() == CONTENT


def refusal(attempt: Callable[[], object]) -> str:
    """Return the code of the error an attempt ends in; empty where it succeeds."""
    try:
        attempt()
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""


# Every form of authentication on every verb.


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """An account's bucket with an object and an upload under way, an empty one, and a name that is free."""

    owner: Keys
    bucket: str
    empty_bucket: str
    free_name: str
    upload_id: str
    part_etag: str


Verb = Callable[[World], Request]

DELETE = b"<Delete><Object><Key>key</Key></Object></Delete>"

WRITES: Final[Mapping[str, Verb]] = {
    "CreateBucket": lambda world: Request(method="PUT", path=f"/{world.free_name}"),
    "DeleteBucket": lambda world: Request(method="DELETE", path=f"/{world.empty_bucket}"),
    "PutObject": lambda world: Request(method="PUT", path=f"/{world.bucket}/key", body=b"overwritten"),
    "CopyObject": lambda world: Request(
        method="PUT", path=f"/{world.bucket}/copy", headers={"x-amz-copy-source": f"/{world.bucket}/key"}
    ),
    "DeleteObject": lambda world: Request(method="DELETE", path=f"/{world.bucket}/key"),
    "DeleteObjects": lambda world: Request(
        method="POST", path=f"/{world.bucket}", query="delete=", headers={"Content-MD5": md5(DELETE)}, body=DELETE
    ),
    "CreateMultipartUpload": lambda world: Request(method="POST", path=f"/{world.bucket}/new", query="uploads="),
    "UploadPart": lambda world: Request(
        method="PUT", path=f"/{world.bucket}/up", query=f"partNumber=2&uploadId={world.upload_id}", body=b"part two"
    ),
    "UploadPartCopy": lambda world: Request(
        method="PUT",
        path=f"/{world.bucket}/up",
        query=f"partNumber=3&uploadId={world.upload_id}",
        headers={"x-amz-copy-source": f"{world.bucket}/key"},
    ),
    "CompleteMultipartUpload": lambda world: Request(
        method="POST",
        path=f"/{world.bucket}/up",
        query=f"uploadId={world.upload_id}",
        body=(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
            f"<ETag>{world.part_etag}</ETag></Part></CompleteMultipartUpload>"
        ).encode(),
    ),
    "AbortMultipartUpload": lambda world: Request(
        method="DELETE", path=f"/{world.bucket}/up", query=f"uploadId={world.upload_id}"
    ),
}

READS: Final[Mapping[str, Verb]] = {
    "ListBuckets": lambda _: Request(method="GET", path="/"),
    "HeadBucket": lambda world: Request(method="HEAD", path=f"/{world.bucket}"),
    "GetBucketLocation": lambda world: Request(method="GET", path=f"/{world.bucket}", query="location="),
    "ListObjects": lambda world: Request(method="GET", path=f"/{world.bucket}"),
    "ListObjectsV2": lambda world: Request(method="GET", path=f"/{world.bucket}", query="list-type=2"),
    "ListMultipartUploads": lambda world: Request(method="GET", path=f"/{world.bucket}", query="uploads="),
    "ListParts": lambda world: Request(method="GET", path=f"/{world.bucket}/up", query=f"uploadId={world.upload_id}"),
    "GetObject": lambda world: Request(method="GET", path=f"/{world.bucket}/key"),
    "HeadObject": lambda world: Request(method="HEAD", path=f"/{world.bucket}/key"),
    "GetObjectAttributes": lambda world: Request(
        method="GET",
        path=f"/{world.bucket}/key",
        query="attributes=",
        headers={"x-amz-object-attributes": "ETag,ObjectSize"},
    ),
}

VERBS: Final[Mapping[str, Verb]] = {**WRITES, **READS}

HONEST: Final[Mapping[str, Signer]] = {
    "header": signed,
    "header, body unsigned": signed_without_body,
    "presigned": presigned,
    "chunks signed": chunk_signed,
    "chunks and trailer signed": chunk_signed_with_trailer,
    "trailer unsigned": unsigned_trailer,
}


def with_wrong_secret(sign: Signer) -> Signer:
    return lambda request, keys: sign(request, replace(keys, secret_key=keys.secret_key[::-1] + "x"))


def with_unknown_key(sign: Signer) -> Signer:
    return lambda request, keys: sign(request, replace(keys, access_key="NOBODYHASTHIS"))


def for_another_method(request: Request, keys: Keys) -> Request:
    other = "PUT" if request.method == "GET" else "GET"
    return replace(presigned(replace(request, method=other), keys), method=request.method)


def for_another_path(sign: Signer) -> Signer:
    return lambda request, keys: replace(sign(replace(request, path="/elsewhere/key"), keys), path=request.path)


FORGED: Final[Mapping[str, tuple[Signer, int, str]]] = {
    "none": (lambda request, _: request, 403, "AccessDenied"),
    "none, with a trailer": (lambda request, _: unsigned_trailer(request, None), 403, "AccessDenied"),
    "header, wrong secret": (with_wrong_secret(signed), 403, "SignatureDoesNotMatch"),
    "presigned, wrong secret": (with_wrong_secret(presigned), 403, "SignatureDoesNotMatch"),
    "chunks signed, wrong secret": (with_wrong_secret(chunk_signed), 403, "SignatureDoesNotMatch"),
    "trailer unsigned, wrong secret": (with_wrong_secret(unsigned_trailer), 403, "SignatureDoesNotMatch"),
    "header, unknown key": (with_unknown_key(signed), 403, "InvalidAccessKeyId"),
    "presigned, unknown key": (with_unknown_key(presigned), 403, "InvalidAccessKeyId"),
    "header, for another path": (for_another_path(signed), 403, "SignatureDoesNotMatch"),
    "presigned, for another path": (for_another_path(presigned), 403, "SignatureDoesNotMatch"),
    "presigned, for another method": (for_another_method, 403, "SignatureDoesNotMatch"),
    "presigned, expired": (
        lambda request, keys: presigned(request, keys, expires_s=60, at_s=time.time() - 61), 403, "AccessDenied",
    ),
    "presigned, not valid yet": (
        lambda request, keys: presigned(request, keys, at_s=time.time() + 1200), 403, "AccessDenied",
    ),
    "presigned, for more than a week": (
        lambda request, keys: presigned(request, keys, expires_s=7 * 24 * 3600 + 1),
        400, "AuthorizationQueryParametersError",
    ),
    "header, signed too long ago": (
        lambda request, keys: signed(request, keys, at_s=time.time() - 1000), 403, "RequestTimeTooSkewed",
    ),
    "header, of Signature Version 2": (
        lambda request, keys: request.with_headers(Authorization=f"AWS {keys.access_key}:c2lnbmF0dXJl"),
        400, "InvalidRequest",
    ),
    "header, without a scheme": (
        lambda request, keys: request.with_headers(Authorization=keys.access_key), 400, "InvalidArgument",
    ),
}  # fmt: skip


def new_world(service: RunningService, owner: Keys) -> World:
    client = service.s3(owner)
    bucket, empty_bucket = service.new_bucket(owner), service.new_bucket(owner)
    client.put_object(Bucket=bucket, Key="key", Body=CONTENT)
    upload_id = client.create_multipart_upload(Bucket=bucket, Key="up")["UploadId"]
    part = client.upload_part(Bucket=bucket, Key="up", UploadId=upload_id, PartNumber=1, Body=b"part one")
    return World(
        owner=owner,
        bucket=bucket,
        empty_bucket=empty_bucket,
        free_name=f"{bucket}-is-free",
        upload_id=upload_id,
        part_etag=part["ETag"],
    )


def what_is_there(service: RunningService, world: World) -> list[object]:
    """Return everything a write could have changed."""
    client = service.s3(world.owner)
    names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    parts = client.list_parts(Bucket=world.bucket, Key="up", UploadId=world.upload_id)["Parts"]
    uploads = client.list_multipart_uploads(Bucket=world.bucket)["Uploads"]
    return [
        names,
        keys_in(client, world.bucket),
        [upload["UploadId"] for upload in uploads],
        [(part["PartNumber"], part["ETag"]) for part in parts],
    ]


@pytest.fixture(scope="module")
def owner(service: RunningService) -> User:
    return service.new_user()


@pytest.fixture(scope="module")
def guarded(service: RunningService) -> tuple[World, list[object]]:
    """A world nobody but its owner may change, and what is in it."""
    world = new_world(service, service.new_user().keys)
    return world, what_is_there(service, world)


def test_the_table_has_every_verb_there_is() -> None:
    assert set(VERBS) == set(OPERATIONS.values())


@pytest.mark.parametrize("form", HONEST)
@pytest.mark.parametrize("verb", VERBS)
def test_the_owner_may_do_everything_whatever_the_form(
    service: RunningService, owner: User, verb: str, form: str
) -> None:
    world = new_world(service, owner.keys)

    answer = send(service.address, HONEST[form](VERBS[verb](world), owner.keys))

    assert answer.status in {200, 204}, answer
    assert answer.code == ""


@pytest.mark.parametrize("form", FORGED)
@pytest.mark.parametrize("verb", VERBS)
def test_whoever_cannot_prove_who_they_are_may_do_nothing(
    service: RunningService, guarded: tuple[World, list[object]], verb: str, form: str
) -> None:
    world, before = guarded
    sign, status, code = FORGED[form]

    answer = send(service.address, sign(VERBS[verb](world), world.owner))

    assert answer.status == status, answer
    assert answer.code == ("" if verb.startswith("Head") else code)
    assert CONTENT not in answer.body
    assert verb in READS or what_is_there(service, world) == before


@pytest.mark.parametrize("form", HONEST)
@pytest.mark.parametrize("verb", sorted({*VERBS} - {"CreateBucket", "ListBuckets"}))
def test_another_account_may_do_nothing(
    service: RunningService, owner: User, guarded: tuple[World, list[object]], verb: str, form: str
) -> None:
    world, before = guarded

    answer = send(service.address, HONEST[form](VERBS[verb](world), owner.keys))

    assert answer.status == 403, answer
    assert answer.code == ("" if verb.startswith("Head") else "AccessDenied")
    assert CONTENT not in answer.body
    assert verb in READS or what_is_there(service, world) == before


@pytest.mark.parametrize("form", HONEST)
def test_another_account_sees_no_bucket_and_cannot_take_its_name(
    service: RunningService, owner: User, guarded: tuple[World, list[object]], form: str
) -> None:
    world, before = guarded

    listed = send(service.address, HONEST[form](READS["ListBuckets"](world), owner.keys))
    made = send(service.address, HONEST[form](Request(method="PUT", path=f"/{world.bucket}"), owner.keys))

    assert listed.status == 200
    assert world.bucket.encode() + b"<" not in listed.body
    assert (made.status, made.code) == (409, "BucketAlreadyExists")
    assert what_is_there(service, world) == before


@pytest.mark.parametrize("form", HONEST)
@pytest.mark.parametrize("verb", ["CopyObject", "UploadPartCopy"])
def test_another_account_cannot_copy_out_what_it_may_not_read(
    service: RunningService, owner: User, guarded: tuple[World, list[object]], verb: str, form: str
) -> None:
    world, _ = guarded
    own = new_world(service, owner.keys)
    copy = VERBS[verb](own).with_headers(x_amz_copy_source=f"/{world.bucket}/key")

    answer = send(service.address, HONEST[form](copy, owner.keys))

    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert "copy" not in keys_in(service.s3(owner.keys), own.bucket)
