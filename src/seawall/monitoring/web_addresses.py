"""Where a notification may go: an address is taken apart once, and judged by what it leads to.

Whoever names a target could have us ask things that only this machine can reach: a database, a cloud's metadata, the
console. So what is judged is the number that is connected to, and never the name.
"""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self
from urllib.parse import urlsplit

from seawall.errors import Misconfigured

Ip = IPv4Address | IPv6Address
PORTS = {"http": 80, "https": 443}
LENGTH_MAX = 2048
PRINTABLE = re.compile(r"[!-~]+")
HOST_NAME_MAX = 253
LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"{LABEL}(\.{LABEL})*\.?")

# What clouds answer to their own machines, with credentials among it: nobody is notified there, whatever is allowed.
# 169.254.169.254 is link-local.
METADATA = {ip_address(text) for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")}

Network = IPv4Network | IPv6Network

# Reached only when the operator allows it.
PRIVATE: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), kind)
    for network, kind in (
        ("127.0.0.0/8", "this machine itself"),
        ("::1/128", "this machine itself"),
        ("10.0.0.0/8", "a private network"),
        ("172.16.0.0/12", "a private network"),
        ("192.168.0.0/16", "a private network"),
        ("100.64.0.0/10", "a provider's own network"),
        ("198.18.0.0/15", "a network for measuring"),
        ("fc00::/7", "a private network"),
        ("fec0::/10", "a private network"),
    )
)
# Reached never: nobody to notify can be there.
# Source: the IANA registries of special-purpose IPv4 and IPv6 addresses.
NOWHERE: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "no address"),
        ("169.254.0.0/16", "link-local, where clouds keep their metadata"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a relay that is no more"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "for many at once"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "no address"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("3fff::/20", "for documentation"),
        ("2002::/16", "a tunnel to an IPv4 address"),
        ("fe80::/10", "link-local, where clouds keep their metadata"),
        ("ff00::/8", "for many at once"),
    )
)
# What IPv6 addresses of others are part of; the rest is not given to anybody.
GLOBAL_V6 = IPv6Network("2000::/3")
# The last four bytes are an IPv4 address: mapped, translated, compatible (RFC 4291), translated by NAT64 (RFC 6052).
DISGUISES = tuple(IPv6Network(text) for text in ("::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96"))
OWN = (IPv6Address("::"), IPv6Address("::1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WebAddress:
    """An http or https address. Its path may hold a secret, so it is not shown: `place` is what may be told."""

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)

    @classmethod
    def parse(cls, url: str, *, setting: str) -> Self:
        """Take an address apart.

        Args:
            setting: its name, for whoever has to change it.

        Raises:
            Misconfigured: it is none that can be used; the message does not repeat it.
        """
        if not PRINTABLE.fullmatch(url) or len(url) > LENGTH_MAX or "\\" in url:
            raise Misconfigured(
                f"{setting} is no address: it may only hold printable ASCII without spaces or backslashes, at most "
                f"{LENGTH_MAX} characters (write other letters percent-encoded, and other domains as xn--…)."
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Misconfigured(f"{setting} is no address: its host or port makes no sense.") from error
        if parts.scheme not in PORTS:
            raise Misconfigured(f"{setting} must start with https:// (or http://).")
        if "@" in parts.netloc:
            raise Misconfigured(
                f"{setting} holds a user name or password before the @: leave them out, they end up in logs. "
                "A token has a setting of its own."
            )
        if parts.hostname is None or not _is_host(re.sub(r":[0-9]*$", "", parts.netloc)) or port == 0:
            raise Misconfigured(f"{setting} is no address: its host or port makes no sense.")
        if parts.fragment:
            raise Misconfigured(f"{setting} has a part after #, which is never sent: leave it out.")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(scheme=parts.scheme, host=parts.hostname, port=port or PORTS[parts.scheme], path=path)

    @property
    def place(self) -> str:
        """Return where it leads, without what may be a secret."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Return host and port, as the `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def number(self) -> Ip | None:
        """Return the address it names by number, if it does."""
        return _number(self.host)


def refusal(address: Ip, *, allow_private: bool) -> str | None:
    """Return why nothing is sent to an address, in words that follow "which is"; None if it may be.

    >>> refusal(ip_address("169.254.169.254"), allow_private=True)
    'link-local, where clouds keep their metadata'
    >>> refusal(ip_address("::ffff:10.0.0.1"), allow_private=False)
    'a private network'
    >>> refusal(ip_address("93.184.215.14"), allow_private=False)
    """
    real = undisguised(address)
    if real in METADATA:
        return "where a cloud keeps its metadata"
    for network, kind in PRIVATE:
        if real in network:
            return None if allow_private else kind
    for network, kind in NOWHERE:
        if real in network:
            return kind
    return "given to nobody" if isinstance(real, IPv6Address) and real not in GLOBAL_V6 else None


def undisguised(address: Ip) -> Ip:
    """Return the IPv4 address that an IPv6 address leads to, where it is only another way to write one.

    >>> undisguised(ip_address("64:ff9b::a9fe:a9fe"))
    IPv4Address('169.254.169.254')
    """
    if isinstance(address, IPv4Address) or address in OWN:
        return address
    if any(address in network for network in DISGUISES):
        return IPv4Address(address.packed[12:])
    return address


def is_private_remedy(address: Ip) -> bool:
    """Tell whether `allow_private` would let an address through, so that a refusal can say so."""
    return refusal(address, allow_private=False) is not None and refusal(address, allow_private=True) is None


def _is_host(text: str) -> bool:
    if text.startswith("["):
        # No zone (`%eth0`): only link-local addresses have one.
        return text.endswith("]") and "%" not in text and isinstance(_number(text[1:-1]), IPv6Address)
    return len(text) <= HOST_NAME_MAX and HOST_NAME.fullmatch(text) is not None


def _number(text: str) -> Ip | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
