"""What operators see. For now: whether the service is alive and ready, and its metrics."""

from seawall.console.door import HealthDoor, Readiness

__all__ = ["HealthDoor", "Readiness"]
