"""How many nodes there are. For now: so many as the settings say, on this machine.

Nodes are processes of their own; this package starts and stops them and knows nothing of what they do.
"""

from seawall.scaling.local_nodes import LocalNodes, stop_strays

__all__ = ["LocalNodes", "stop_strays"]
