"""What the keeper's watch takes from what nodes tell."""

from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings, Endpoint
from seawall.service.snapshots import connections_of
from seawall.service.watch import replica_ages_s


def test_the_oldest_that_a_node_knows_of_a_replica_is_what_counts_and_a_primary_has_no_age() -> None:
    endpoints = [
        Endpoint(host=host, port=5432, user="seawall", password="", database="seawall") for host in ("one", "two")
    ]
    summaries = []
    for late_s in (2.0, 30.0):
        database = Database(endpoints, DatabaseSettings(), application_name="tests")
        primary, replica = database.servers
        primary.fresh_s, replica.fresh_s = monotonic_s(), monotonic_s() - late_s
        summaries.append({"connections": connections_of(database)})

    found = replica_ages_s([*summaries, {}])

    assert [*found] == [endpoints[1].name]
    assert 30.0 <= found[endpoints[1].name] < 40.0
