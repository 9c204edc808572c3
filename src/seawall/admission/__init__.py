"""May this request start? Priorities, fair shares and a pace that follows what is scarce.

It knows nothing of HTTP, of S3 or of the database: doors tell it who comes, what is scarce tells it how long its queue
is, and it answers yes, or when to say no.
"""

from seawall.admission.gate import WINDOW_S, Gate, GateSettings, Refusal
from seawall.admission.shares import Standing

__all__ = ["WINDOW_S", "Gate", "GateSettings", "Refusal", "Standing"]
