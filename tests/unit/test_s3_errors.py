from http import HTTPStatus

import pytest
from botocore.model import Shape
from botocore.parsers import RestXMLParser
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from seawall import errors
from seawall.objects import digests
from seawall.s3.errors import CODES, S3_ERRORS, S3Error, error_xml, escape, translate


def subclasses(cls: type[errors.SeawallError]) -> list[type[errors.SeawallError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in subclasses(child))]


def test_an_error_has_the_status_and_the_message_of_its_code() -> None:
    error = S3Error("NoSuchKey")

    assert error.status is HTTPStatus.NOT_FOUND
    assert error.message == "The specified key does not exist."


def test_an_error_may_say_more_than_usual() -> None:
    error = S3Error("InvalidArgument", "Part number must be an integer.", fields={"ArgumentName": "partNumber"})

    assert error.message == "Part number must be an integer."
    assert error.fields == {"ArgumentName": "partNumber"}
    assert str(error) == "InvalidArgument: Part number must be an integer."


def test_every_failure_of_the_house_has_a_code_that_exists() -> None:
    assert set(S3_ERRORS.values()) <= set(CODES)


@pytest.mark.parametrize("cls", [cls for cls in subclasses(errors.SeawallError) if cls.__module__ == errors.__name__])
def test_every_failure_is_answered_by_name(cls: type[errors.SeawallError]) -> None:
    assert cls in S3_ERRORS


def test_an_error_is_translated_as_its_nearest_ancestor() -> None:
    class DigestOfSomeOtherKind(digests.PayloadMismatch):
        """Not in the table."""

    assert translate(DigestOfSomeOtherKind()).code == "XAmzContentSHA256Mismatch"
    assert translate(errors.BadDigest()).code == "BadDigest"
    assert translate(errors.SeawallError()).code == "InternalError"


def test_what_the_raiser_wrote_about_the_request_goes_out() -> None:
    written = translate(errors.Invalid("max-keys must not be negative"))
    unwritten = translate(errors.NoSuchKey())

    assert written.message == "max-keys must not be negative"
    assert unwritten.message == "The specified key does not exist."


@pytest.mark.parametrize(
    "error", [ValueError("secret"), errors.BlobCorrupt("secret"), errors.DatabaseDown("secret"), KeyError("secret")]
)
def test_what_went_wrong_inside_stays_inside(error: Exception) -> None:
    answer = translate(error)

    assert answer.status >= 500
    assert b"secret" not in error_xml(answer, "/bucket/key", "1")


def test_an_overloaded_service_says_when_to_come_back() -> None:
    answer = translate(errors.Overloaded(retry_after_s=1.2))

    assert (answer.status, answer.code) == (HTTPStatus.SERVICE_UNAVAILABLE, "SlowDown")
    assert answer.headers == {"Retry-After": "2"}


def test_an_answer_in_s3s_words_is_left_alone() -> None:
    error = S3Error("NoSuchKey")

    assert translate(error) is error


def test_a_client_reads_back_what_was_written() -> None:
    error = S3Error("NoSuchBucket", "there's no <bucket> & never was", fields={"BucketName": "a&b"})

    answer = {"body": error_xml(error, '/a&b/"key"', "4442587FB7D0A2F9"), "headers": {}, "status_code": 404}
    parsed = RestXMLParser().parse(answer, Shape("Nothing", {"type": "structure"}))

    assert parsed["Error"]["Code"] == "NoSuchBucket"
    assert parsed["Error"]["Message"] == "there's no <bucket> & never was"
    assert parsed["Error"]["BucketName"] == "a&b"
    assert parsed["Error"]["Resource"] == '/a&b/"key"'


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")))
def test_text_that_xml_can_express_comes_back_as_it_was(text: str) -> None:
    assert (etree.fromstring(f"<a>{escape(text)}</a>").text or "") == text


@given(st.text(st.characters()))
def test_any_text_at_all_can_be_written(text: str) -> None:
    escaped = escape(text)

    escaped.encode()
    assert not any(character in escaped for character in '<>"\0\x01\x1f\r\ufffe\uffff')


def test_characters_that_xml_cannot_express_leave_as_references() -> None:
    assert escape("a\x01\r\n") == "a&#x1;&#xd;&#xa;"
