"""What the doors share: HTTP/1.1 as we need it, one exchange at a time, and the request log.

It knows nothing of S3, of accounts, or of what is stored.
"""

from seawall.edge.body import Body
from seawall.edge.exchange import ClientGone, Exchange, Handler
from seawall.edge.server import HttpServer, HttpSettings

__all__ = ["Body", "ClientGone", "Exchange", "Handler", "HttpServer", "HttpSettings"]
