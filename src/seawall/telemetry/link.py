"""The keeper's UNIX socket: nodes tell it how they are, commands ask it things.

A line is a JSON object. A node says `{"node": …}` first and a summary each second after; a command
says `{"ask": …}` and gets one line back. The socket lies in a directory only our own user may enter.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from seawall.clock import monotonic_s
from seawall.errors import NotRunning, SeawallError

log = logging.getLogger(__name__)

Message = dict[str, Any]
Answer = Callable[[Message], Awaitable[Message]]
Hear = Callable[[str, Message], None]

LINE_MAX_BYTES = 4 * 1024 * 1024
SUMMARY_INTERVAL_S = 1.0
ANSWER_TIMEOUT_S = 30.0
# Parts of a summary that are told once, and not kept with it.
TOLD_ONCE = ("point", "users", "tenants")
# A node not heard from for so long is not counted as serving.
SILENCE_MAX_S = 5.0


class Link:
    """The keeper's end. State: the last summary of each node that is connected.

    Args:
        path: of the socket.
        answer: gives the answer to a command's question.
        hear: is given each summary and the node it is of. A ValueError ends the conversation with that node.
    """

    def __init__(self, path: Path, answer: Answer, hear: Hear | None = None) -> None:
        self.path = path
        self._answer = answer
        self._hear = hear
        self._summaries: dict[str, tuple[float, Message]] = {}
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

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.ensure_future(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node = ""
        try:
            while line := await reader.readline():
                message: Message = json.loads(line)
                if "ask" in message:
                    writer.write(_line(await self._reply(message)))
                    await writer.drain()
                else:
                    node = str(message["node"])
                    if self._hear is not None:
                        self._hear(node, message)
                        for name in TOLD_ONCE:
                            message.pop(name, None)
                    self._summaries[node] = (monotonic_s(), message)
        except (OSError, ValueError, KeyError) as error:
            log.warning("link.broken", extra={"node": node, "error": str(error)})
        finally:
            self._summaries.pop(node, None)
            writer.close()

    async def _reply(self, message: Message) -> Message:
        try:
            return {"answer": await self._answer(message)}
        except SeawallError as error:
            return {"error": str(error)}


async def report(path: Path, node: str, summary: Callable[[], Mapping[str, Any]]) -> None:
    """Tell the keeper every second how this node is. Runs until cancelled.

    A keeper that is away is no reason to stop: the next one will listen.
    """
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(path)
        except OSError:
            await asyncio.sleep(SUMMARY_INTERVAL_S)
            continue
        try:
            while True:
                writer.write(_line({"node": node, **summary()}))
                await writer.drain()
                await asyncio.sleep(SUMMARY_INTERVAL_S)
        except OSError:
            await asyncio.sleep(SUMMARY_INTERVAL_S)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


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
    finally:
        writer.close()
    if not line:
        raise NotRunning("The service stopped before it answered.")
    message: Message = json.loads(line)
    if "error" in message:
        raise SeawallError(str(message["error"]))
    return message["answer"]


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, default=str).encode() + b"\n"
