"""How numbers, times and durations are written where people read them in a hurry."""

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """Return a length of time as people say it.

    >>> duration(0.4), duration(9.4), duration(95), duration(7300), duration(200000)
    ('0.4 s', '9 s', '1 min 35 s', '2 h 1 min', '2 d 7 h')
    """
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = round(seconds)
    for size, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"


def clock(at_s: float) -> str:
    """Return the time of day in UTC.

    >>> clock(1795478405.9)
    '00:00:05'
    """
    return datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S")


def day(at_s: float) -> str:
    """Return the day in UTC, as in `2026-11-24`."""
    return datetime.fromtimestamp(at_s, UTC).date().isoformat()


def percent(part: float) -> str:
    """Return a part as per cent, with as many digits as say something.

    >>> percent(0.304), percent(0.0312), percent(0.01), percent(1.0), percent(0.0002), percent(0.9996)
    ('30 %', '3.1 %', '1 %', '100 %', '0.02 %', '99.96 %')
    """
    hundred = round(part * 100, 4)
    digits = 2 if 0 < hundred < 0.1 or 99.9 < hundred < 100 else 1 if 0 < hundred < 10 or 99 < hundred < 100 else 0
    text = f"{hundred:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits else text} %"


def many(count: float, one: str, several: str = "") -> str:
    """Return a number of things.

    >>> many(1, "request"), many(1200, "request"), many(2, "second")
    ('1 request', '1,200 requests', '2 seconds')
    """
    return f"{count:,.0f} {one if count == 1 else several or one + 's'}"


def listed(words: list[str]) -> str:
    """Return words as a sentence lists them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def sentence(text: str) -> str:
    """Return what somebody else wrote as a sentence: a capital at its head, unless that is a name, and a full stop.

    >>> sentence("the pool is full"), sentence("Already one."), sentence("pool.lent is 3")
    ('The pool is full.', 'Already one.', 'pool.lent is 3.')
    """
    text = text.strip()
    if not text:
        return ""
    first = text.split(maxsplit=1)[0]
    head = text[0].upper() if first.isalpha() else text[0]
    return head + text[1:] + ("" if text[-1] in ".!?" else ".")
