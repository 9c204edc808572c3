import datetime
import hashlib
import hmac
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from seawall.s3 import signature
from seawall.s3.errors import S3Error
from seawall.s3.signature import Claim, SigningKey, SigningKeys, parse, verify

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
NOW_S = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC).timestamp()

# Everything that has ever confused somebody about a key.
AWKWARD = [
    "a b",
    "a+b",
    "a%2Fb",
    "a%2fb",
    "~",
    "//",
    "/../",
    "./",
    "%",
    "%%",
    "ü",
    "日本",
    "\U0001f40b",
    "&=?#;:@!$'()*,[]",
]
KEYS = st.lists(st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=["Cs"])))).map("".join)
QUERIES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: not name.startswith("X-Amz-")),
    st.text(st.characters(exclude_categories=["Cs"])),
    max_size=4,
)
METADATA = st.dictionaries(
    st.from_regex(r"x-amz-meta-[a-z0-9-]{1,10}", fullmatch=True),
    st.from_regex(r"[ \t]{0,2}([!-~]{1,5}[ \t]{1,3}){0,3}[!-~]{1,3}[ \t]{0,2}", fullmatch=True),
    max_size=3,
)


@dataclass(frozen=True)
class Request:
    """A request as it arrives."""

    method: str = "GET"
    raw_path: str = "/bucket/key"
    raw_query: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def with_headers(self, **changed: str) -> "Request":
        return replace(self, headers={**self.headers, **{name.replace("_", "-"): v for name, v in changed.items()}})

    def without_header(self, name: str) -> "Request":
        return replace(self, headers={known: value for known, value in self.headers.items() if known != name})

    def claim(self, *, region: str | None = None) -> Claim | None:
        return parse(
            method=self.method, raw_path=self.raw_path, raw_query=self.raw_query, headers=self.headers, region=region
        )


def signed(
    *,
    form: str,
    key: str = "key",
    method: str = "GET",
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    expires_s: int = 600,
) -> Request:
    """Sign as botocore does."""
    auth: Any = (
        S3SigV4Auth(Credentials(ACCESS_KEY, SECRET), "s3", "us-east-1")
        if form == "header"
        else S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET), "s3", "us-east-1", expires=expires_s)
    )
    url = f"http://localhost:9000/bucket/{quote(key, safe='/~')}"
    request: Any = AWSRequest(method=method, url=url, params=query or {}, headers=headers or {}, data=io.BytesIO(body))
    auth.add_auth(request)
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    arrived = {name.lower(): value for name, value in prepared.headers.items()}
    sent = {name: value if isinstance(value, str) else value.decode() for name, value in arrived.items()}
    return Request(
        method=method,
        raw_path=parts.path,
        raw_query=parts.query,
        headers={"host": "localhost:9000", "user-agent": "test", **sent},
    )


def check(request: Request, *, secret: str = SECRET, later_s: float = 0, keys: SigningKeys | None = None) -> Any:
    claim = request.claim()
    assert claim is not None
    return verify(claim, secret=secret, now_s=claim.signed_at_s + later_s, keys=keys or SigningKeys())


def refusal(request: Request, *, secret: str = SECRET, later_s: float = 0) -> S3Error:
    with pytest.raises(S3Error) as refused:
        check(request, secret=secret, later_s=later_s)
    return refused.value


def half_signed(**parameters: str) -> Request:
    """Return a presigned request with the parameters changed, or left out when empty; nobody signed it."""
    usual = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{ACCESS_KEY}/20130524/us-east-1/s3/aws4_request",
        "X-Amz-Date": "20130524T000000Z",
        "X-Amz-Expires": "86400",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": "0" * 64,
    }
    changed = {f"X-Amz-{name}": value for name, value in parameters.items()}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in {**usual, **changed}.items() if value)
    return Request(raw_query=query, headers={"host": "localhost"})


def half_signed_header(authorization: str, **headers: str) -> Request:
    """Return a request with this Authorization header; nobody signed it."""
    usual = {"host": "localhost", "x-amz-date": "20130524T000000Z", "x-amz-content-sha256": EMPTY_SHA256}
    return Request(headers={**usual, "authorization": authorization}).with_headers(**headers)


def authorization(
    *,
    credential: str = f"{ACCESS_KEY}/20130524/us-east-1/s3/aws4_request",
    signed_headers: str = "host;x-amz-content-sha256;x-amz-date",
    signature: str = "0" * 64,
) -> str:
    return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed_headers}, Signature={signature}"


# The examples of the documentation.

DOCUMENTED = [
    (
        Request(
            raw_path="/test.txt",
            headers={"range": "bytes=0-9", "x-amz-content-sha256": EMPTY_SHA256},
        ),
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    ),
    (
        Request(
            method="PUT",
            raw_path="/test%24file.text",
            headers={
                "date": "Fri, 24 May 2013 00:00:00 GMT",
                "x-amz-storage-class": "REDUCED_REDUNDANCY",
                "x-amz-content-sha256": hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
            },
        ),
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    ),
    (
        Request(raw_path="/", raw_query="lifecycle", headers={"x-amz-content-sha256": EMPTY_SHA256}),
        "host;x-amz-content-sha256;x-amz-date",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    ),
    (
        Request(raw_path="/", raw_query="max-keys=2&prefix=J", headers={"x-amz-content-sha256": EMPTY_SHA256}),
        "host;x-amz-content-sha256;x-amz-date",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ),
]


@pytest.mark.parametrize(("request_", "signed_headers", "expected"), DOCUMENTED)
def test_the_documented_requests_are_believed(request_: Request, signed_headers: str, expected: str) -> None:
    request = request_.with_headers(
        host="examplebucket.s3.amazonaws.com",
        x_amz_date="20130524T000000Z",
        authorization=authorization(signed_headers=signed_headers, signature=expected),
    )

    assert check(request).access_key == ACCESS_KEY


def test_the_documented_presigned_url_is_believed() -> None:
    expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    request = replace(
        half_signed(Signature=expected), raw_path="/test.txt", headers={"host": "examplebucket.s3.amazonaws.com"}
    )

    assert check(request).form == "presigned"


# What botocore signs.


@given(key=KEYS, query=QUERIES, headers=METADATA, body=st.binary(max_size=20))
def test_what_botocore_signs_in_a_header_is_believed(
    key: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> None:
    request = signed(form="header", method="PUT", key=key, query=query, headers=headers, body=body)

    believed = check(request)

    assert believed.form == "header"
    assert believed.access_key == ACCESS_KEY
    assert believed.payload == hashlib.sha256(body).hexdigest()


@given(key=KEYS, query=QUERIES, headers=METADATA)
def test_what_botocore_presigns_is_believed(key: str, query: dict[str, str], headers: dict[str, str]) -> None:
    request = signed(form="presigned", key=key, query={n: v for n, v in query.items() if v}, headers=headers)

    believed = check(request)

    assert believed.form == "presigned"
    assert believed.payload == "UNSIGNED-PAYLOAD"


@given(key=KEYS, query=QUERIES)
def test_the_way_a_client_encodes_makes_no_difference(key: str, query: dict[str, str]) -> None:
    request = signed(form="header", key=key, query=query)
    everything = "".join(f"%{byte:02x}" for byte in f"bucket/{key}".encode())
    encoded = replace(request, raw_path="/" + everything.replace("%2f", "/"))
    backwards = replace(request, raw_query="&".join(reversed(request.raw_query.split("&"))))

    assert encoded.claim() == request.claim() == backwards.claim()


def test_a_metadata_value_in_utf_8_is_believed() -> None:
    request = signed(form="header", headers={"x-amz-meta-city": "Zürich"})
    on_the_wire = "Zürich".encode().decode("latin-1")

    assert check(request.with_headers(**{"x-amz-meta-city": on_the_wire})).access_key == ACCESS_KEY


def test_a_query_without_an_equals_sign_is_an_empty_value() -> None:
    with_sign = signed(form="header", query={"uploads": ""})

    assert with_sign.raw_query == "uploads="
    assert check(replace(with_sign, raw_query="uploads")).access_key == ACCESS_KEY
    assert check(replace(with_sign, raw_query="&uploads&")).access_key == ACCESS_KEY


def test_a_plus_in_a_query_is_a_space() -> None:
    request = signed(form="header", query={"prefix": "a b"})

    assert check(replace(request, raw_query="prefix=a+b")).access_key == ACCESS_KEY


def test_an_encoded_slash_in_a_path_is_not_a_slash() -> None:
    assert refusal(replace(signed(form="header", key="a/b"), raw_path="/bucket/a%2Fb")).code == "SignatureDoesNotMatch"
    assert signature.canonical_path("/a%2fb/../c//d") == "/a%2Fb/../c//d"


def test_a_date_header_will_do() -> None:
    moment = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC)
    request = half_signed_header("", date=format_datetime(moment, usegmt=True)).without_header("x-amz-date")
    request = request.with_headers(authorization=authorization(signed_headers="date;host;x-amz-content-sha256"))

    claim = request.claim()

    assert claim is not None
    assert (claim.timestamp, claim.signed_at_s) == ("20130524T000000Z", NOW_S)


# Tampering.

ALTERATIONS: dict[str, Callable[[Request], Request]] = {
    "method": lambda request: replace(request, method="DELETE"),
    "path": lambda request: replace(request, raw_path="/bucket/other"),
    "dots": lambda request: replace(request, raw_path="/bucket/../bucket/key"),
    "query": lambda request: replace(request, raw_query=request.raw_query.replace("list-type=2", "list-type=1")),
    "more query": lambda request: replace(request, raw_query=request.raw_query + "&versionId=null"),
    "less query": lambda request: replace(request, raw_query=request.raw_query.replace("list-type=2", "")),
    "header": lambda request: request.with_headers(x_amz_meta_a="2"),
    "less header": lambda request: request.without_header("x-amz-meta-a"),
    "another header": lambda request: request.with_headers(x_amz_acl="public-read"),
    "copy source": lambda request: request.with_headers(x_amz_copy_source="/other/secret"),
    "host": lambda request: request.with_headers(host="elsewhere"),
    "body": lambda request: request.with_headers(x_amz_content_sha256=hashlib.sha256(b"other").hexdigest()),
    "unsigned body": lambda request: request.with_headers(x_amz_content_sha256="STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
}


@pytest.mark.parametrize("form", ["header", "presigned"])
@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_request_is_refused(form: str, name: str) -> None:
    request = signed(form=form, query={"list-type": "2"}, headers={"x-amz-meta-a": "1"})
    assert check(request)

    refused = refusal(ALTERATIONS[name](request))

    assert refused.code in {"SignatureDoesNotMatch", "AccessDenied"}
    assert refused.status == 403


@pytest.mark.parametrize("name", ["X-Amz-Expires=600", "us-east-1", "X-Amz-Date=20", "SignedHeaders=host", "AKIA"])
def test_an_altered_presigned_url_is_refused(name: str) -> None:
    request = signed(form="presigned", headers={"x-amz-meta-a": "1"})
    changed = {"X-Amz-Expires=600": "X-Amz-Expires=60000", "SignedHeaders=host": "SignedHeaders=user-agent%3Bhost"}
    altered = replace(request, raw_query=request.raw_query.replace(name, changed.get(name, name[:-1] + "9")))
    assert altered != request

    assert refusal(altered).code in {"SignatureDoesNotMatch", "AuthorizationQueryParametersError"}


@pytest.mark.parametrize("form", ["header", "presigned"])
@given(position=st.integers(0, 63))
def test_an_altered_signature_is_refused(form: str, position: int) -> None:
    request = signed(form=form)
    holder = request.raw_query or request.headers["authorization"]
    at = holder.index("Signature=") + len("Signature=") + position
    altered = holder[:at] + ("0" if holder[at] != "0" else "1") + holder[at + 1 :]
    changed = replace(request, raw_query=altered) if request.raw_query else request.with_headers(authorization=altered)

    assert refusal(changed).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("form", ["header", "presigned"])
@pytest.mark.parametrize("signature_", ["", "0", "0" * 65, "ü" * 64, "G" * 64])
def test_a_signature_that_cannot_be_one_is_refused(form: str, signature_: str) -> None:
    request = half_signed(Signature=signature_ or "-")
    if form == "header":
        request = half_signed_header(authorization(signature=signature_))

    assert refusal(request).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("form", ["header", "presigned"])
def test_another_secret_is_refused_and_not_remembered(form: str) -> None:
    request = signed(form=form)
    keys = SigningKeys()
    claim = request.claim()
    assert claim

    with pytest.raises(S3Error) as refused:
        verify(claim, secret="another", now_s=claim.signed_at_s, keys=keys)

    assert refused.value.code == "SignatureDoesNotMatch"
    assert refused.value.fields["CanonicalRequest"] == claim.canonical_request
    assert repr(keys) == "SigningKeys(0 of 4096)"


# Time.


@pytest.mark.parametrize(("later_s", "code"), [(901, "RequestTimeTooSkewed"), (-901, "RequestTimeTooSkewed")])
def test_a_header_is_good_for_a_quarter_of_an_hour_around_its_date(later_s: float, code: str) -> None:
    request = signed(form="header")

    assert check(request, later_s=899)
    assert check(request, later_s=-899)
    assert refusal(request, later_s=later_s).code == code


def test_a_presigned_url_is_good_from_its_date_until_it_expires() -> None:
    request = signed(form="presigned", expires_s=3600)

    assert check(request, later_s=3600)
    assert check(request, later_s=-899)
    assert refusal(request, later_s=3601).message == "Request has expired"
    assert refusal(request, later_s=-901).message == "Request is not valid yet"


def test_a_presigned_url_may_live_a_week_and_no_longer() -> None:
    assert check(signed(form="presigned", expires_s=604_800), later_s=604_800)
    assert refusal(signed(form="presigned", expires_s=604_801)).code == "AuthorizationQueryParametersError"


# Claims that are malformed.


def test_a_request_without_a_signature_is_anonymous() -> None:
    assert Request(headers={"host": "localhost"}).claim() is None
    assert Request(raw_query="list-type=2&prefix=X-Amz-Algorithm", headers={"host": "localhost"}).claim() is None


@pytest.mark.parametrize("missing", ["Credential", "Date", "Expires", "SignedHeaders", "Signature"])
def test_a_presigned_url_needs_all_its_parameters(missing: str) -> None:
    refused = refusal(half_signed(**{missing: ""}))

    assert refused.code == "AuthorizationQueryParametersError"
    assert missing in refused.message


@pytest.mark.parametrize(
    "parameters",
    [
        {"Algorithm": "AWS4-HMAC-SHA512"},
        {"Algorithm": ""},
        {"Expires": "-1"},
        {"Expires": "1.5"},
        {"Expires": "1_0"},
        {"Expires": "+5"},
        {"Expires": "soon"},
        {"Expires": "9" * 5000},
        {"Date": "2013-05-24T00:00:00Z"},
        {"Date": "20130524"},
        {"Date": "20131324T000000Z"},
        {"Date": "20130525T000000Z"},
        {"Credential": ACCESS_KEY},
        {"Credential": f"{ACCESS_KEY}/20130524/us-east-1/s3"},
        {"Credential": f"{ACCESS_KEY}/20130524/us-east-1/ec2/aws4_request"},
        {"Credential": f"{ACCESS_KEY}/20130524/us-east-1/s3/aws5_request"},
        {"Credential": f"{ACCESS_KEY}/20130524//s3/aws4_request"},
        {"SignedHeaders": "date"},
        {"SignedHeaders": "Host"},
    ],
    ids=lambda parameters: "=".join(*parameters.items())[:40],
)
def test_a_malformed_presigned_url_is_refused(parameters: dict[str, str]) -> None:
    assert refusal(half_signed(**parameters)).code == "AuthorizationQueryParametersError"


@pytest.mark.parametrize("repeated", ["X-Amz-Expires=1", "X-Amz-Signature=0", "X-Amz-Date=20130524T000000Z"])
def test_a_parameter_of_the_signature_stands_once(repeated: str) -> None:
    request = half_signed()

    assert refusal(replace(request, raw_query=f"{request.raw_query}&{repeated}")).code == (
        "AuthorizationQueryParametersError"
    )


def test_other_parameters_may_repeat() -> None:
    request = half_signed()

    assert replace(request, raw_query=f"{request.raw_query}&a=1&a=2").claim() is not None


@pytest.mark.parametrize("access_key", ["", "a" * 129, "caf\u00e9", "nul\0"])
def test_an_access_key_that_cannot_be_one_is_not_looked_up(access_key: str) -> None:
    request = half_signed(Credential=f"{access_key}/20130524/us-east-1/s3/aws4_request")

    assert refusal(request).code == "InvalidAccessKeyId"


@pytest.mark.parametrize(
    "header",
    [
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 ",
        "AWS4-HMAC-SHA256 Credential",
        authorization(credential=ACCESS_KEY),
        authorization(credential=f"{ACCESS_KEY}/20130525/us-east-1/s3/aws4_request"),
        authorization(credential=f"{ACCESS_KEY}/20130524/us-east-1/sts/aws4_request"),
        authorization(signed_headers="x-amz-content-sha256;x-amz-date"),
        authorization() + ", Signature=" + "1" * 64,
        authorization().replace("SignedHeaders", "Signed"),
    ],
)
def test_a_malformed_authorization_header_is_refused(header: str) -> None:
    assert refusal(half_signed_header(header)).code == "AuthorizationHeaderMalformed"


@pytest.mark.parametrize(
    "request_",
    [
        half_signed_header("AWS AKIAIOSFODNN7EXAMPLE:bWq2s1WEIj+Ydj0vQ697zp+IXMU="),
        half_signed_header(authorization().replace("HMAC-SHA256", "ECDSA-P256-SHA256")),
        Request(raw_query="AWSAccessKeyId=A&Expires=1&Signature=B", headers={"host": "localhost"}),
    ],
)
def test_older_and_newer_signatures_are_refused_rather_than_ignored(request_: Request) -> None:
    refused = refusal(request_)

    assert refused.code == "InvalidRequest"
    assert "AWS4-HMAC-SHA256" in refused.message


def test_another_kind_of_authorization_is_refused() -> None:
    assert refusal(half_signed_header("Bearer token")).code == "InvalidArgument"
    assert refusal(half_signed_header("")).code == "InvalidArgument"


def test_a_request_signed_twice_is_refused() -> None:
    request = signed(form="presigned").with_headers(authorization=authorization())

    assert refusal(request).code == "InvalidArgument"


def test_the_header_form_names_the_hash_of_its_body() -> None:
    request = half_signed_header(authorization(signed_headers="host;x-amz-date"))

    missing = refusal(request.without_header("x-amz-content-sha256"))
    nonsense = refusal(request.with_headers(x_amz_content_sha256="nonsense"))

    assert (missing.code, missing.message) == (
        "InvalidRequest",
        "Missing required header for this request: x-amz-content-sha256",
    )
    assert nonsense.code == "InvalidArgument"


@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 99 May 2013 00:00:00 GMT", "Fri, 31 Dec 9999 23:00:00 -0200"])
def test_the_header_form_needs_a_date(date: str) -> None:
    request = half_signed_header(authorization(), date=date).without_header("x-amz-date")

    assert refusal(request).code == "AccessDenied"


def test_headers_of_amazon_must_be_signed() -> None:
    refused = refusal(signed(form="header").with_headers(x_amz_tagging="a=b"))

    assert refused.code == "AccessDenied"
    assert refused.message == "There were headers present in the request which were not signed"
    assert refused.fields == {"HeadersNotSigned": "x-amz-tagging"}


def test_a_presigned_url_may_promise_the_hash_of_a_body() -> None:
    digest = hashlib.sha256(b"body").hexdigest()
    request = signed(form="presigned", method="PUT", headers={"X-Amz-Content-SHA256": digest})

    assert check(request).payload == digest
    assert refusal(request.with_headers(x_amz_content_sha256=EMPTY_SHA256)).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("form", ["header", "presigned"])
def test_a_region_may_be_insisted_on(form: str) -> None:
    request = signed(form=form)

    assert request.claim(region="us-east-1") is not None
    with pytest.raises(S3Error) as refused:
        request.claim(region="eu-west-1")
    assert refused.value.fields == {"Region": "eu-west-1"}


@given(
    header=st.text(st.characters(max_codepoint=0x17F)),
    query=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)),
)
def test_nonsense_is_refused_in_s3s_words(header: str, query: str) -> None:
    for request in (
        half_signed_header(f"AWS4-HMAC-SHA256 {header}"),
        half_signed_header(authorization(credential=header)),
        half_signed_header(authorization(), x_amz_date=header),
        half_signed_header(authorization(), date=header).without_header("x-amz-date"),
        Request(raw_query=f"X-Amz-Algorithm=AWS4-HMAC-SHA256&{query}"),
        half_signed(Credential=query),
        half_signed(Date=query),
        half_signed(SignedHeaders=f"host;{query}"),
    ):
        if (claim := _quietly(request)) is not None:
            with pytest.raises(S3Error):
                verify(claim, secret=SECRET, now_s=NOW_S, keys=SigningKeys())


def _quietly(request: Request) -> Claim | None:
    try:
        return request.claim()
    except S3Error:
        return None


# Keys.


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_signing_key_signs_as_hmac_does(secret: str, text: str) -> None:
    key = f"AWS4{secret}".encode()
    for part in ("20130524", "us-east-1", "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")

    signing_key = SigningKey(secret, date="20130524", region="us-east-1")

    assert signing_key.sign(text) == hmac.digest(key, text.encode(), "sha256").hex()


def test_the_least_recently_used_key_is_forgotten() -> None:
    keys = SigningKeys(limit=2)
    first, second, third = (("secret", str(day), "us-east-1") for day in range(3))
    keys.remember(first, SigningKey("secret", date="0", region="us-east-1"))
    keys.remember(second, SigningKey("secret", date="1", region="us-east-1"))

    keys.get(first)
    keys.remember(third, SigningKey("secret", date="2", region="us-east-1"))

    assert keys.get(first) is not None
    assert keys.get(second) is None
    assert repr(keys) == "SigningKeys(2 of 2)"


def test_a_key_is_made_once() -> None:
    keys = SigningKeys()
    request = signed(form="header")

    assert check(request, keys=keys).key is check(request, keys=keys).key
