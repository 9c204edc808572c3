"""What operators see: whether the service is alive and ready, its metrics, and what went wrong."""

from seawall.console.door import HealthDoor, Readiness
from seawall.console.incidents import IncidentDoor
from seawall.console.root_entry import RootEntry

__all__ = ["HealthDoor", "IncidentDoor", "Readiness", "RootEntry"]
