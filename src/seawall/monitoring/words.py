"""Numbers as people read them at night: with their unit, two digits that count, and what is usual beside."""

from collections.abc import Callable

NOT_KNOWN = "not measured"


def duration(seconds: float | None) -> str:
    """Return a time.

    >>> duration(0.0123), duration(4.2), duration(630)
    ('12 ms', '4.2 s', '10.5 min')
    """
    if seconds is None:
        return NOT_KNOWN
    if seconds < 0.00995:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min"


def part(share: float | None) -> str:
    """Return a share.

    >>> part(0.031), part(0.003)
    ('3%', '0.3%')
    """
    if share is None:
        return NOT_KNOWN
    return f"{share:.1%}" if 0 < share < 0.00995 else f"{share:.0%}"


def amount(number: float | None) -> str:
    """Return a number.

    >>> amount(12345.6), amount(0.25), amount(7.0)
    ('12,346', '0.25', '7')
    """
    if number is None:
        return NOT_KNOWN
    if number == round(number) or abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.2g}" if abs(number) < 10 else f"{number:.0f}"


def size(count: float | None) -> str:
    """Return a number of bytes.

    >>> size(1.5 * 1024**3)
    '1.5 GiB'
    """
    if count is None:
        return NOT_KNOWN
    for unit in ("bytes", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def counted(number: float | None, one: str, many: str = "") -> str:
    """Return a number of things.

    >>> counted(1, "session"), counted(2, "session")
    ('1 session', '2 sessions')
    """
    return f"{amount(number)} {one if number == 1 else many or f'{one}s'}"


def versus(what: str, is_now: float | None, usual: float | None, say: Callable[[float | None], str]) -> str:
    """Return a line of evidence: what is now, and what is usual.

    >>> versus("the disk takes", 0.3, 0.002, duration)
    'the disk takes: 300 ms, usually 2.0 ms'
    """
    return f"{what}: {say(is_now)}" + ("" if is_now is None and usual is None else f", usually {say(usual)}")
