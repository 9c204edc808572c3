"""The keeper's UNIX socket: nodes tell it how they are, commands ask it things.

A line is a JSON object. A node says `{"node": …}` with a summary each second and `{"metrics": …}` after it, which is
long and seldom asked for, so it is kept as it came. It may be told `{"knob": …}`: what to do differently from now on. A
command says `{"ask": …}` and gets one line back. The socket lies in a directory only our own user may enter.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from seawall.clock import monotonic_s
from seawall.errors import NotRunning, SeawallError

log = logging.getLogger(__name__)

Message = dict[str, Any]
Answer = Callable[[Message], Awaitable[Message]]

LINE_MAX_BYTES = 4 * 1024 * 1024
SUMMARY_INTERVAL_S = 1.0
ANSWER_TIMEOUT_S = 30.0
# What a metrics line begins with.
METRICS = b'{"metrics": '
# Parts of a summary that are for whoever hears it, and not kept.
TOLD_ONCE = ("point", "users", "tenants")
# A node not heard from for so long is not counted as serving.
SILENCE_MAX_S = 5.0
# A node that left so much unread does not listen.
UNHEARD_MAX_BYTES = 64 * 1024


class Link:
    """The keeper's end. State: the last summary and the last metrics of each node that is connected.

    Args:
        path: of the socket.
        answer: gives the answer to a command's question.
        hear: is told each summary with the name of its node: some of what a second says is said only once.
    """

    def __init__(self, path: Path, answer: Answer, *, hear: Callable[[str, Message], None] | None = None) -> None:
        self.path = path
        self._answer = answer
        self._hear = hear
        self._summaries: dict[str, tuple[float, Message]] = {}
        self._metrics: dict[str, bytes] = {}
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Link {len(self._summaries)} nodes>"

    async def __aenter__(self) -> Self:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._begin, self.path, limit=LINE_MAX_BYTES)
        self.path.chmod(0o600)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for conversation in [*self._conversations]:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def summaries(self) -> dict[str, Message]:
        """Return the last summary of every node that was heard from lately."""
        now_s = monotonic_s()
        return {
            node: summary for node, (heard_s, summary) in self._summaries.items() if now_s - heard_s <= SILENCE_MAX_S
        }

    def metrics(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield where the metrics of every node stand that was heard from lately."""
        for node in self.summaries():
            line = self._metrics.get(node)
            if line is None:
                continue
            try:
                yield node, json.loads(line)["metrics"]
            except ValueError as error:
                log.warning("link.metrics_broken", extra={"node": node, "error": str(error)})

    def tell(self, node: str, message: Message) -> bool:
        """Tell a node to do something differently; return False where it is not connected, or does not listen.

        That it was told is no promise that it obeys: what is meant to last has an end, and is told again before that.
        """
        writer = self._writers.get(node)
        if writer is None or writer.transport.get_write_buffer_size() > UNHEARD_MAX_BYTES:
            return False
        writer.write(_line(message))
        return True

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.ensure_future(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node = ""
        try:
            while line := await reader.readline():
                if node and line.startswith(METRICS):
                    self._metrics[node] = line
                    continue
                message: Message = json.loads(line)
                if "ask" in message:
                    writer.write(_line(await self._reply(message)))
                    await writer.drain()
                else:
                    node = str(message["node"])
                    self._summaries[node] = (monotonic_s(), _without(message, TOLD_ONCE))
                    self._writers[node] = writer
                    if self._hear is not None:
                        self._tell_of(node, message, self._hear)
        except (OSError, ValueError, KeyError) as error:
            log.warning("link.broken", extra={"node": node, "error": str(error)})
        finally:
            if self._writers.get(node) is writer:  # Else it came again, and this is its former connection.
                del self._writers[node]
                self._summaries.pop(node, None)
                self._metrics.pop(node, None)
            writer.close()

    @staticmethod
    def _tell_of(node: str, message: Message, hear: Callable[[str, Message], None]) -> None:
        try:
            hear(node, message)
        except Exception as error:
            # A mistake in what is made of it must not take the link down.
            log.exception("link.not_heard", extra={"node": node, "error": repr(error)})

    async def _reply(self, message: Message) -> Message:
        try:
            return {"answer": await self._answer(message)}
        except SeawallError as error:
            return {"error": str(error)}


async def report(
    path: Path,
    node: str,
    summary: Callable[[], Mapping[str, Any]],
    *,
    obey: Callable[[Message], None] | None = None,
    begin: Callable[[], None] | None = None,
) -> None:
    """Tell the keeper every second how this node is, and do what it says. Runs until cancelled.

    A keeper that is away is no reason to stop: the next one will listen.

    Args:
        path: of the socket.
        node: its name.
        summary: gives what is told. It is asked each second, also while nobody listens: each tells of its second.
        obey: is told what the keeper says.
        begin: is called when somebody listens who may not have heard what was told before.
    """
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=LINE_MAX_BYTES)
        except OSError:
            summary()
            await asyncio.sleep(SUMMARY_INTERVAL_S)
            continue
        listening = asyncio.create_task(_listen(reader, obey), name="listen to keeper")
        try:
            if begin is not None:
                begin()
            due_s = monotonic_s()
            while True:
                told = {"node": node, **summary()}
                metrics = told.pop("metrics", None)
                writer.write(_line(told))
                if metrics is not None:
                    writer.write(_line({"metrics": metrics}))
                await writer.drain()
                # A second from the last time it was due, not from now; what was missed is not made up for.
                now_s = monotonic_s()
                due_s = max(due_s + SUMMARY_INTERVAL_S, now_s)
                await asyncio.sleep(due_s - now_s)
        except OSError:
            await asyncio.sleep(SUMMARY_INTERVAL_S)
        finally:
            listening.cancel()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            await asyncio.wait([listening])


async def _listen(reader: asyncio.StreamReader, obey: Callable[[Message], None] | None) -> None:
    """Hand on what the keeper says until it goes away; what cannot be understood or obeyed is logged, and no more."""
    with suppress(OSError, ValueError):  # It is gone, or says something that has no end.
        while line := await reader.readline():
            try:
                message: Message = json.loads(line)
                if obey is not None:
                    obey(message)
            except Exception as error:
                log.exception(
                    "link.not_obeyed", extra={"said": line[:200].decode(errors="replace"), "error": repr(error)}
                )


async def ask(path: Path, question: str, **details: Any) -> Any:
    """Ask the keeper something, as a command does.

    Raises:
        NotRunning: nobody listens.
        SeawallError: the keeper declined; the message says why.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_MAX_BYTES)
    except OSError as error:
        raise NotRunning(f"No service is running on this data directory ({path.parent.parent}).") from error
    try:
        writer.write(_line({"ask": question, **details}))
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            line = await reader.readline()
    except TimeoutError as error:
        raise NotRunning(f"The service did not answer within {ANSWER_TIMEOUT_S:g} s: its keeper hangs.") from error
    except OSError:
        line = b""
    finally:
        writer.close()
    if not line:
        raise NotRunning("The service stopped before it answered.")
    message: Message = json.loads(line)
    if "error" in message:
        raise SeawallError(str(message["error"]))
    return message["answer"]


def _without(message: Message, names: Collection[str]) -> Message:
    return {name: value for name, value in message.items() if name not in names}


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, default=str).encode() + b"\n"
