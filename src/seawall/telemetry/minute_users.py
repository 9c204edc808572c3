"""How many different users there were in a minute, and for how many of them something went wrong: exactly.

Accounts are dense numbers, so that one bit tells whether one was there: a million take 0.12 MiB, as strings 98. What is
told each second is who is new in this minute, so that whoever listens can count them over all nodes.
"""

from typing import Any, Final

NUMBER_MAX: Final = 1 << 26
"""Accounts of numbers below have a bit, which takes 8 MiB at the most; of others, so many are remembered by number."""

OTHERS_MAX: Final = 10_000
CLAIMED_MAX: Final = 10_000
"""How many access keys that nobody could look up are remembered in a minute."""


class Accounts:
    """A set of account numbers. State: a bit for each, and those that are new since somebody asked."""

    def __init__(self) -> None:
        self.new: list[int] = []
        self.count = 0
        self._bits = bytearray()
        self._others: set[int] = set()

    def __repr__(self) -> str:
        return f"<Accounts {self.count}>"

    def add(self, number: int) -> None:
        """Note one; what is known already changes nothing."""
        place = number >> 3
        bits = self._bits
        if place < len(bits):
            bit = 1 << (number & 7)
            if bits[place] & bit:
                return
            bits[place] |= bit
        elif number < NUMBER_MAX:
            bits.extend(bytes(place + 1 + (place >> 2) - len(bits)))
            bits[place] |= 1 << (number & 7)
        elif number in self._others or len(self._others) >= OTHERS_MAX:
            return
        else:
            self._others.add(number)
        self.count += 1
        self.new.append(number)

    def everybody(self) -> list[int]:
        """Return all of them, in order."""
        some = [(8 * place, byte) for place, byte in enumerate(self._bits) if byte]
        found = [first + bit for first, byte in some for bit in range(8) if byte >> bit & 1]
        return [*found, *sorted(self._others)]


class MinuteUsers:
    """State: the minute, on the wall clock, who was seen in it, and for whom something failed or was refused."""

    def __init__(self, now_s: float) -> None:
        self.minute = int(now_s // 60)
        self.seen = Accounts()
        self.failed = Accounts()
        self._claimed: set[str] = set()
        self._claimed_new: list[str] = []

    def __repr__(self) -> str:
        return f"<MinuteUsers {self.seen.count} seen, {self.failed.count} failed>"

    def fail(self, who: int | str) -> None:
        """Note for whom something went wrong: an account, or a key of which nobody knows the account just now."""
        if isinstance(who, int):
            self.seen.add(who)
            self.failed.add(who)
        elif who not in self._claimed and len(self._claimed) < CLAIMED_MAX:
            self._claimed.add(who)
            self._claimed_new.append(who)

    def take(self, now_s: float) -> dict[str, Any]:
        """Return who is new since this was asked last, at `now_s` on the wall clock; then maybe begin a new minute.

        What came since counts for the minute that it was then: it is asked each second, and no finer than that.
        """
        found = {
            "minute": self.minute,
            "seen": self.seen.new,
            "failed": self.failed.new,
            "claimed": self._claimed_new,
        }
        self.seen.new, self.failed.new, self._claimed_new = [], [], []
        minute = int(now_s // 60)
        if minute != self.minute:
            self.minute = minute
            self.seen, self.failed, self._claimed = Accounts(), Accounts(), set()
        return found

    def tell_again(self) -> None:
        """Have everybody of this minute told once more: somebody else listens now."""
        for accounts in (self.seen, self.failed):
            accounts.new = accounts.everybody()
        self._claimed_new = list(self._claimed)
