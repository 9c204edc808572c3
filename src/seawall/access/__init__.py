"""Who is calling, and what they may do.

It knows accounts, access keys and who owns what; it knows nothing of signatures (those are the
doors') or of keys and bytes (those are `objects`').
"""

from seawall.access.accounts import Account, AccountBook, NewAccount
from seawall.access.callers import Caller, Credential, Credentials
from seawall.access.permissions import require_owner

__all__ = ["Account", "AccountBook", "Caller", "Credential", "Credentials", "NewAccount", "require_owner"]
