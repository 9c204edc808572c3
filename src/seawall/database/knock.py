"""Is there a PostgreSQL behind this address, and does it answer? Asked without a password and without a connection.

A server that takes no more connections, or is just starting, answers this question all the same: it tells a server in
trouble from one that cannot be reached.
"""

import asyncio
import struct
from contextlib import suppress
from typing import Final

from seawall.database.endpoint import Endpoint

SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)
"""May we speak TLS? Every PostgreSQL answers with one byte, and forgets who hangs up then.

Source: "SSLRequest", PostgreSQL's documentation, section 54.7 (message formats)."""

ANSWERS: Final = frozenset({b"S", b"N", b"E"})


async def answers(endpoint: Endpoint, *, within_s: float) -> bool:
    """Return whether a PostgreSQL answers there in this time."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(within_s):
            if endpoint.host.startswith("/"):
                path = f"{endpoint.host}/.s.PGSQL.{endpoint.port}"
                reader, writer = await asyncio.open_unix_connection(path)
            else:
                reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            writer.write(SSL_REQUEST)
            return await reader.read(1) in ANSWERS
    except OSError:  # a TimeoutError is one
        return False
    finally:
        if writer is not None:
            with suppress(OSError):
                writer.transport.abort()
