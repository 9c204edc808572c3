"""One POST to places that are down, slow, wrong or hostile: DESIGN's "SSRF by webhook" among them."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address

import pytest
import pytest_asyncio
import uvloop
from tests.monitoring.receivers import CERTIFICATE, Receiver, endlessly, never, receiving, says, until, writes

from seawall.monitoring.posting import HEAD_MAX_BYTES, Outcome, Poster, Verdict, retry_after_s
from seawall.monitoring.web_addresses import Ip, WebAddress

MIB = 1024 * 1024


class Names:
    """A name server that says something else each time. Remembers what it was asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> list[Ip]:
        self.asked.append(host)
        return [ip_address(text) for text in self._answers[min(len(self.asked), len(self._answers)) - 1]]


@pytest_asyncio.fixture
async def poster() -> AsyncIterator[Poster]:
    opened = Poster(allow_private=True)
    yield opened
    opened.close()


async def post(poster: Poster, url: str, **headers: str) -> Outcome:
    return await poster.post(WebAddress.parse(url, setting="X"), headers=headers, body=b'{"a": "\xc3\xa4"}')


async def test_a_request_arrives_as_it_was_meant(poster: Poster) -> None:
    async with receiving() as receiver:
        outcome = await post(poster, receiver.url("/a%2Fb?c=d"), Authorization="Bearer t")

    assert outcome == Outcome(verdict=Verdict.SENT, reason="answered 200", status=200)
    (request,) = receiver.requests
    assert (request.method, request.path) == ("POST", "/a%2Fb?c=d")
    assert request.json() == {"a": "ä"}
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["authorization"] == "Bearer t"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
async def test_what_may_pass_is_for_later(poster: Poster, status: int) -> None:
    async with receiving(says(status, "Retry-After: 7")) as receiver:
        outcome = await post(poster, receiver.url())

    assert (outcome.verdict, outcome.status, outcome.retry_after_s) == (Verdict.LATER, status, 7.0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 422])
async def test_what_is_refused_is_not_tried_again(poster: Poster, status: int) -> None:
    async with receiving(says(status)) as receiver:
        outcome = await post(poster, receiver.url())

    assert (outcome.verdict, outcome.status) == (Verdict.NEVER, status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(poster: Poster, status: int) -> None:
    async with receiving() as inside, receiving(says(status, f"Location: {inside.url('/secret')}")) as receiver:
        outcome = await post(poster, receiver.url())

    assert outcome.verdict is Verdict.NEVER
    assert inside.connections == 0


async def test_a_provisional_answer_is_not_the_answer(poster: Poster) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3
    async with receiving(writes(early + b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")) as receiver:
        outcome = await post(poster, receiver.url())

    assert outcome.status == 202


async def test_who_is_down_may_be_up_later(poster: Poster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        outcome = await post(poster, f"http://127.0.0.1:{taken.getsockname()[1]}/secret")

    assert outcome.verdict is Verdict.LATER
    assert "secret" not in outcome.reason


async def test_who_never_answers_is_left_after_a_while() -> None:
    poster = Poster(allow_private=True, post_s=0.3)
    async with receiving(never) as receiver:
        outcome = await post(poster, receiver.url("/secret"))
        await until(lambda: receiver.open == 0)
    poster.close()

    assert outcome == Outcome(verdict=Verdict.LATER, reason="it did not answer within 0.3 s")


async def test_who_never_finishes_tls_is_left_after_a_while() -> None:
    poster = Poster(allow_private=True, post_s=0.3)
    async with receiving(never) as receiver:
        outcome = await post(poster, receiver.url(scheme="https"))
        await until(lambda: receiver.open == 0)
    poster.close()

    assert outcome.verdict is Verdict.LATER


async def test_a_name_server_that_hangs_is_left_after_a_while() -> None:
    async def hang(_host: str, _port: int) -> list[Ip]:
        await asyncio.Event().wait()
        raise AssertionError

    poster = Poster(allow_private=True, post_s=0.2, resolve=hang)
    outcome = await post(poster, "http://hooks.test/")
    poster.close()

    assert outcome.verdict is Verdict.LATER


async def test_an_endless_body_is_not_read(poster: Poster) -> None:
    body = endlessly(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 65536)
    async with receiving(body) as receiver:
        outcome = await post(poster, receiver.url())
        # They are hung up on; what they could send until then is what sockets hold.
        await until(lambda: receiver.open == 0)

    assert outcome.verdict is Verdict.SENT


async def test_an_endless_head_is_not_read_to_its_end(poster: Poster) -> None:
    assert HEAD_MAX_BYTES == 64 * 1024
    async with receiving(endlessly(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n" * 64)) as receiver:
        outcome = await post(poster, receiver.url())
        await until(lambda: receiver.open == 0)

    assert outcome == Outcome(verdict=Verdict.LATER, reason="what it answers is no HTTP")


async def test_endless_provisional_answers_are_not_read_to_their_end(poster: Poster) -> None:
    async with receiving(endlessly(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 64)) as receiver:
        outcome = await post(poster, receiver.url())
        await until(lambda: receiver.open == 0)

    assert outcome == Outcome(verdict=Verdict.LATER, reason="what it answers is no HTTP")


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH_9.2 root:hunter2\r\n", b"HTTP/1.1 200", b"", b"\x00" * 100])
async def test_who_speaks_something_else_is_not_quoted(poster: Poster, data: bytes) -> None:
    async with receiving(writes(data)) as receiver:
        outcome = await post(poster, receiver.url())

    assert outcome == Outcome(verdict=Verdict.LATER, reason="what it answers is no HTTP")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_this_machine_is_not_told_unless_allowed(name: str) -> None:
    poster = Poster(allow_private=False)
    async with receiving() as receiver:
        outcome = await post(poster, receiver.url("/secret", host=name))
        assert receiver.connections == 0
    poster.close()

    assert outcome.verdict is Verdict.NEVER
    assert "this machine itself" in outcome.reason
    assert "SEAWALL_NOTIFY_ALLOW_PRIVATE" in outcome.reason
    assert "secret" not in outcome.reason


@pytest.mark.parametrize("number", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"])
async def test_other_ways_to_write_this_machine_are_judged_by_where_they_lead(number: str) -> None:
    poster = Poster(allow_private=False)
    async with receiving() as receiver:
        outcome = await post(poster, receiver.url(host=number))
        assert receiver.connections == 0
    poster.close()

    assert outcome.verdict is Verdict.NEVER


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        ["::1"],
        ["10.0.0.1"],
        ["fd00::1"],
        ["169.254.169.254"],
        ["fe80::1"],
        ["224.0.0.1"],
        ["0.0.0.0"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["93.184.215.14", "127.0.0.1"],
    ],
    ids=" ".join,
)
async def test_a_name_that_leads_inside_is_refused(found: list[str]) -> None:
    poster = Poster(allow_private=False, resolve=Names(found))
    outcome = await post(poster, "http://hooks.test/")
    poster.close()

    assert outcome.verdict is Verdict.NEVER
    assert str(ip_address(found[-1])) in outcome.reason


@pytest.mark.parametrize("found", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "224.0.0.1", "::", "100.100.100.200"])
async def test_a_name_that_leads_to_metadata_is_refused_whatever_is_allowed(found: str) -> None:
    poster = Poster(allow_private=True, resolve=Names([found]))
    outcome = await post(poster, "http://hooks.test/")
    poster.close()

    assert outcome.verdict is Verdict.NEVER
    assert "ALLOW_PRIVATE" not in outcome.reason


async def test_the_address_that_was_judged_is_the_one_connected_to() -> None:
    # Rebinding: the second answer would be another place.
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    poster = Poster(allow_private=True, resolve=names)
    async with receiving() as receiver:
        outcome = await post(poster, receiver.url(host="hooks.test"))
    poster.close()

    assert outcome.verdict is Verdict.SENT
    assert names.asked == ["hooks.test"]
    assert receiver.requests[0].headers["host"] == f"hooks.test:{receiver.port}"


async def test_of_several_addresses_the_first_that_answers_is_used() -> None:
    poster = Poster(allow_private=True, resolve=Names(["::1", "127.0.0.2", "127.0.0.1"]))
    async with receiving() as receiver:
        outcome = await post(poster, receiver.url(host="hooks.test"))
    poster.close()

    assert outcome.verdict is Verdict.SENT


async def test_an_unknown_name_may_be_known_later() -> None:
    async def unknown(_host: str, _port: int) -> list[Ip]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    poster = Poster(allow_private=False, resolve=unknown)
    outcome = await post(poster, "http://hooks.test/")
    poster.close()

    assert outcome.verdict is Verdict.LATER


async def test_no_proxy_is_used(poster: Poster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with receiving() as receiver:
        outcome = await post(poster, receiver.url())

    assert outcome.verdict is Verdict.SENT


async def tls_post(*, trusted: bool, name: str) -> tuple[Outcome, Receiver]:
    tls = ssl.create_default_context(cafile=CERTIFICATE if trusted else None)
    poster = Poster(allow_private=True, tls=tls, resolve=Names(["127.0.0.1"]))
    async with receiving(tls=True) as receiver:
        outcome = await post(poster, receiver.url(scheme="https", host=name), Authorization="Bearer t")
    poster.close()
    return outcome, receiver


async def test_a_trusted_certificate_is_accepted() -> None:
    outcome, receiver = await tls_post(trusted=True, name="hooks.test")

    assert outcome.verdict is Verdict.SENT
    assert len(receiver.requests) == 1


async def test_a_certificate_nobody_vouches_for_is_refused_before_anything_is_said() -> None:
    outcome, receiver = await tls_post(trusted=False, name="hooks.test")

    assert (outcome.verdict, receiver.requests) == (Verdict.NEVER, [])
    assert "certificate" in outcome.reason


async def test_a_certificate_of_another_name_is_refused_before_anything_is_said() -> None:
    outcome, receiver = await tls_post(trusted=True, name="other.test")

    assert (outcome.verdict, receiver.requests) == (Verdict.NEVER, [])
    assert "certificate" in outcome.reason


async def test_who_speaks_no_tls_is_told_nothing(poster: Poster) -> None:
    async with receiving(writes(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9)) as receiver:
        receiver.answers_at_once = True
        outcome = await post(poster, receiver.url("/s3cret", scheme="https"))

    assert (outcome.verdict, receiver.requests) == (Verdict.LATER, [])
    assert "no TLS" in outcome.reason


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "1e9", "99999999999", "Thu, 01 Foo 1970", "\xb2"])
def test_a_retry_after_that_makes_no_sense_says_nothing(value: str) -> None:
    assert retry_after_s(value, now_s=0.0) is None


async def test_what_the_machine_trusts_is_the_default() -> None:
    poster = Poster(allow_private=True, resolve=Names(["127.0.0.1"]))
    async with receiving(tls=True) as receiver:
        outcome = await post(poster, receiver.url(scheme="https", host="hooks.test"))
    poster.close()

    assert (outcome.verdict, receiver.requests) == (Verdict.NEVER, [])


def test_the_service_s_own_event_loop_tells_the_same() -> None:
    async def told() -> list[tuple[Verdict, int]]:
        found = []
        for trusted, name in ((True, "hooks.test"), (False, "hooks.test"), (True, "other.test")):
            outcome, receiver = await tls_post(trusted=trusted, name=name)
            found.append((outcome.verdict, len(receiver.requests)))
        return found

    assert uvloop.run(told()) == [(Verdict.SENT, 1), (Verdict.NEVER, 0), (Verdict.NEVER, 0)]


async def test_who_stops_waiting_leaves_no_connection_behind(poster: Poster) -> None:
    async with receiving(never) as receiver:
        posting = asyncio.create_task(post(poster, receiver.url()))
        await until(lambda: receiver.requests)
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        await until(lambda: receiver.open == 0)
