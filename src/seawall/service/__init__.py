"""The composition roots: what a node and a keeper are made of.

Tests and drills start the service through them, exactly as operators do.
"""

from seawall.service.keeper import DATABASE_PATIENCE_S, Keeper, open_sweeper, running_keeper
from seawall.service.loops import watch_local_server
from seawall.service.machine import listening_socket, raise_descriptor_limit
from seawall.service.node import QUERIES, Node, running_node

__all__ = [
    "DATABASE_PATIENCE_S",
    "QUERIES",
    "Keeper",
    "Node",
    "listening_socket",
    "open_sweeper",
    "raise_descriptor_limit",
    "running_keeper",
    "running_node",
    "watch_local_server",
]
