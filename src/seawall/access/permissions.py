"""What a caller may do. Whatever is not granted is denied.

For now there is one grant: an account owns the buckets it made, and does in them what it likes.
An administrator may do everything everywhere; a caller without an account, nothing anywhere.
"""

from seawall.access.callers import Caller
from seawall.errors import Denied


def require_owner(caller: Caller | None, owner_id: int) -> Caller:
    """Return the caller if the thing is theirs to use.

    Raises:
        Denied: it is not, or nobody knows who is calling.
    """
    if caller is not None and (caller.account_id == owner_id or caller.is_admin):
        return caller
    raise Denied
