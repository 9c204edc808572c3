"""One POST to a place that may be down, slow, wrong or hostile: within a few seconds it says what became of it.

The name is looked up once and the very address that was judged is connected to, so a name that changes its mind between
the two leads nowhere. Certificates are always checked. Redirects are not followed, proxies not used (they would
do the connecting), and no body is read: nothing in it is needed. What is said of a failure never holds what was sent,
what came back, or more of the address than its scheme and host.
"""

import asyncio
import math
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from ipaddress import ip_address

import h11

from seawall.clock import wall_s
from seawall.monitoring.web_addresses import Ip, WebAddress, is_private_remedy, refusal

# From the look-up to the head of the answer. Slack and PagerDuty answer within one.
POST_S = 10.0
CONNECT_S = 5.0
# How many addresses of one name are tried.
ADDRESSES_MAX = 3
CLOSE_S = 1.0
# A look-up that hangs is left behind after `POST_S` and ends by itself after half a minute: three a target.
LOOKUPS_MAX = 16
# More than any head of an answer; who sends more before it is over is no web server.
HEAD_MAX_BYTES = 64 * 1024
RECEIVE_BYTES = 16 * 1024
PASSING = frozenset({408, 425, 429})

Resolve = Callable[[str, int], Awaitable[Sequence[Ip]]]


class Verdict(StrEnum):
    """What to do about it."""

    SENT = "sent"
    LATER = "later"
    """It may work later."""
    NEVER = "never"
    """It will not, until somebody changes something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one attempt. `reason` is a sentence that holds no secret."""

    verdict: Verdict
    reason: str
    status: int | None = None
    retry_after_s: float | None = None


class Refused(Exception):
    """Nothing may be sent there; the message says why."""


class Poster:
    """Posts to any target. State: threads that look names up, more than there can be hung ones; what is trusted.

    Args:
        allow_private: whether this machine and private networks may be reached.
        tls: what is trusted; what the machine trusts when left out.
        resolve: looks names up; as the machine does when left out.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
        post_s: float = POST_S,
    ) -> None:
        self._allow_private = allow_private
        self._tls = tls
        self._post_s = post_s
        self._resolve = resolve or self._look_up
        self._lookups = ThreadPoolExecutor(max_workers=LOOKUPS_MAX, thread_name_prefix="notify-lookup")

    def close(self) -> None:
        """Let the threads go; each ends when its last look-up does."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def post(self, address: WebAddress, *, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Send one request and say what became of it. Never raises what a target can cause."""
        try:
            async with asyncio.timeout(self._post_s):
                return await self._post(address, headers=headers, body=body)
        except TimeoutError:
            return _later(f"it did not answer within {self._post_s:g} s")
        except Refused as error:
            return Outcome(verdict=Verdict.NEVER, reason=str(error))
        except ssl.SSLCertVerificationError as error:
            return Outcome(
                verdict=Verdict.NEVER, reason=f"its certificate is not to be trusted: {error.verify_message}"
            )
        except ssl.SSLError as error:
            return _later(f"no TLS with it: {error.reason or 'the connection broke'}")
        except socket.gaierror:
            return _later("its name is not known, or the name server does not answer")
        except OSError as error:
            return _later(f"no connection: {error.strerror or type(error).__name__}")
        except h11.RemoteProtocolError:
            return _later("what it answers is no HTTP")

    async def _post(self, address: WebAddress, *, headers: Mapping[str, str], body: bytes) -> Outcome:
        reader, writer = await self._connect(address)
        try:
            connection = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=HEAD_MAX_BYTES)
            request = h11.Request(
                method="POST",
                target=address.path,
                headers=[
                    ("Host", address.authority),
                    ("User-Agent", "Seawall"),
                    ("Content-Length", str(len(body))),
                    ("Connection", "close"),
                    *headers.items(),
                ],
            )
            parts = (request, h11.Data(data=body), h11.EndOfMessage())
            writer.write(b"".join(connection.send(part) or b"" for part in parts))
            with suppress(ConnectionError):
                # Who refuses early closes before everything is sent, and its answer can still be read.
                await writer.drain()
            return judged(await _head(connection, reader))
        finally:
            # At once: no goodbye of theirs is waited for.
            writer.transport.abort()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await writer.wait_closed()

    async def _connect(self, address: WebAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first address that answers, of those that may be reached.

        Raises:
            Refused: one of them may not.
            OSError: none answers.
        """
        number = address.number()
        found = [number] if number is not None else list(await self._resolve(address.host, address.port))
        for one in found:
            # One is enough: a name that leads into our network and out of it is no honest one.
            judge(one, address.host, allow_private=self._allow_private)
        tls = None
        if address.scheme == "https":
            # Made once, and only where needed: it reads every certificate the machine trusts.
            self._tls = self._tls or await asyncio.to_thread(ssl.create_default_context)
            tls = self._tls
        failure: OSError = OSError(0, "its name has no address")
        for one in found[:ADDRESSES_MAX]:
            try:
                async with asyncio.timeout(CONNECT_S):
                    return await asyncio.open_connection(
                        str(one),
                        address.port,
                        limit=RECEIVE_BYTES,
                        ssl=tls,
                        server_hostname=address.host.rstrip(".") if tls else None,
                    )
            except ssl.SSLError:
                raise
            except OSError as error:
                failure = error
        raise failure

    async def _look_up(self, host: str, port: int) -> list[Ip]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._lookups, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        # Without its zone, which only a link-local one has, and that is refused anyway.
        return [ip_address(str(place[0]).partition("%")[0]) for *_, place in found]


def judge(address: Ip, host: str, *, allow_private: bool) -> None:
    """Let an address pass.

    Raises:
        Refused: nothing is sent there.
    """
    reason = refusal(address, allow_private=allow_private)
    if reason is None:
        return
    place = host if host == str(address) else f"{host} is {address}, which"
    remedy = "; SEAWALL_NOTIFY_ALLOW_PRIVATE=true would allow it" if is_private_remedy(address) else ""
    raise Refused(f"{place} is {reason}: nothing is sent there{remedy}")


async def _head(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Response:
    """Receive the head of the answer, past those that only say that it will come.

    Raises:
        h11.RemoteProtocolError: it is none, or too long.
    """
    received = 0
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            return event
        if event is h11.NEED_DATA:
            data = await reader.read(RECEIVE_BYTES)
            received += len(data)
            if received > HEAD_MAX_BYTES:
                raise h11.RemoteProtocolError("the head of the answer is too long")
            connection.receive_data(data)
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("the connection was closed before an answer")


def judged(response: h11.Response) -> Outcome:
    """Return what an answer means for the notice."""
    status = response.status_code
    if 200 <= status < 300:
        return Outcome(verdict=Verdict.SENT, reason=f"answered {status}", status=status)
    if status in PASSING or status >= 500:
        waits = [value.decode("ascii", "replace") for name, value in response.headers if name == b"retry-after"]
        return Outcome(
            verdict=Verdict.LATER,
            reason=f"answered {status}",
            status=status,
            retry_after_s=retry_after_s(waits[0], now_s=wall_s()) if waits else None,
        )
    return Outcome(verdict=Verdict.NEVER, reason=f"answered {status}: {meaning(status)}", status=status)


def meaning(status: int) -> str:
    """Return what whoever set up the target should look at."""
    if 300 <= status < 400:
        return "it sends us elsewhere, and we do not follow; give the address it has now"
    if status in {401, 403}:
        return "it does not accept the key or token"
    if status in {404, 410}:
        return "nothing is there (any more); was the address revoked or mistyped?"
    return "it does not accept what we send; is it the kind of target that the setting says?"


def retry_after_s(value: str, *, now_s: float) -> float | None:
    """Return how long a `Retry-After` asks to wait, from seconds or a date; None if it is neither.

    >>> retry_after_s("120", now_s=0), retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", now_s=50)
    (120.0, 10.0)

    Source: RFC 9110, section 10.2.3.
    """
    text = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        at_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, at_s - now_s) if math.isfinite(at_s) else None


def _later(reason: str) -> Outcome:
    return Outcome(verdict=Verdict.LATER, reason=reason)
