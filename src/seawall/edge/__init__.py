"""What the doors share: HTTP/1.1 as we need it, one exchange at a time, and the request log.

It knows nothing of S3, of accounts, or of what is stored.
"""

from seawall.edge.body import Body
from seawall.edge.exchange import Admit, ClientGone, Exchange, Handler, PutOff
from seawall.edge.server import HttpServer, HttpSettings

__all__ = ["Admit", "Body", "ClientGone", "Exchange", "Handler", "HttpServer", "HttpSettings", "PutOff"]
