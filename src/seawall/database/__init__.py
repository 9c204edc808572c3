"""Everything between us and PostgreSQL: connections, batching, named queries, migrations.

Only this package speaks to the driver. It knows nothing of buckets or bytes; the queries it runs
stand in `.sql` files beside the modules that need them.
"""

from seawall.database.balancer import Balancer, find_primary
from seawall.database.database import Database, DatabaseSettings, Transaction
from seawall.database.endpoint import Endpoint
from seawall.database.pool import Pool
from seawall.database.queries import Queries, Query, load_queries

__all__ = [
    "Balancer",
    "Database",
    "DatabaseSettings",
    "Endpoint",
    "Pool",
    "Queries",
    "Query",
    "Transaction",
    "find_primary",
    "load_queries",
]
