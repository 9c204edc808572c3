"""Who is told: the targets an operator has set up, each with the address and the words it wants.

A target knows how a notice is written for it, and nothing of queues and sockets; `outbox` sends.
"""

import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from seawall.errors import Misconfigured
from seawall.monitoring import payloads
from seawall.monitoring.notices import Notice
from seawall.monitoring.posting import Outcome, Poster
from seawall.monitoring.web_addresses import PRIVATE, WebAddress, is_private_remedy, refusal

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
ROUTING_KEY = re.compile(r"[A-Za-z0-9]{32}")
NTFY_TOPIC = re.compile(r"/([-_A-Za-z0-9]{1,64})/?")
TOKEN = re.compile(r"[!-~]{1,1024}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Somebody who is told. Its repr may be logged: it holds no secret."""

    name: str
    address: WebAddress
    payload: Callable[[Notice], Mapping[str, Any]] = field(repr=False)
    token: str = field(default="", repr=False)
    """Sent as `Authorization: Bearer`, if there is one."""

    @property
    def place(self) -> str:
        """Return where it is, as it may be told."""
        return self.address.place

    async def tell(self, notice: Notice, poster: Poster) -> Outcome:
        """Send a notice once."""
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        text = json.dumps(self.payload(notice), ensure_ascii=False)
        return await poster.post(self.address, headers=headers, body=text.encode(errors="replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationSettings:
    """Who is told, as the operator wrote it down; what is empty is not used. Everything but `allow_private` is secret.

    Raises:
        Misconfigured: one of them cannot work.
    """

    webhook_url: str = field(default="", repr=False)
    webhook_token: str = field(default="", repr=False)
    slack_url: str = field(default="", repr=False)
    pagerduty_key: str = field(default="", repr=False)
    pagerduty_url: str = field(default=PAGERDUTY_URL, repr=False)
    ntfy_url: str = field(default="", repr=False)
    ntfy_token: str = field(default="", repr=False)
    allow_private: bool = False

    def __post_init__(self) -> None:
        self.targets()

    def targets(self) -> tuple[Target, ...]:
        """Return who is told."""
        found = (self._webhook(), self._slack(), self._pagerduty(), self._ntfy())
        return tuple(target for target in found if target is not None)

    def _webhook(self) -> Target | None:
        token = self._token("WEBHOOK")
        if not self.webhook_url:
            return None
        address = self._address(self.webhook_url, "WEBHOOK_URL", with_secret=bool(token))
        return Target(name="webhook", address=address, payload=payloads.alertmanager, token=token)

    def _slack(self) -> Target | None:
        if not self.slack_url:
            return None
        address = self._address(self.slack_url, "SLACK_URL", with_secret=True)
        if address.path == "/":
            raise Misconfigured("SEAWALL_NOTIFY_SLACK_URL lacks its path: copy it whole, with /services/….")
        return Target(name="slack", address=address, payload=payloads.slack)

    def _pagerduty(self) -> Target | None:
        if not self.pagerduty_key:
            return None
        if not ROUTING_KEY.fullmatch(self.pagerduty_key):
            raise Misconfigured(
                "SEAWALL_NOTIFY_PAGERDUTY_KEY is no integration key: that has 32 letters and digits, and is found at "
                "the service in PagerDuty, under Integrations, Events API V2."
            )
        address = self._address(self.pagerduty_url, "PAGERDUTY_URL", with_secret=True)
        payload = partial(payloads.pagerduty, routing_key=self.pagerduty_key, source=socket.gethostname())
        return Target(name="pagerduty", address=address, payload=payload)

    def _ntfy(self) -> Target | None:
        token = self._token("NTFY")
        if not self.ntfy_url:
            return None
        address = self._address(self.ntfy_url, "NTFY_URL", with_secret=bool(token))
        topic = NTFY_TOPIC.fullmatch(address.path)
        if topic is None:
            raise Misconfigured(
                "SEAWALL_NOTIFY_NTFY_URL is the server and one topic, of at most 64 letters, digits, _ and -: "
                "https://ntfy.sh/my-topic."
            )
        root = WebAddress(scheme=address.scheme, host=address.host, port=address.port, path="/")
        return Target(name="ntfy", address=root, payload=partial(payloads.ntfy, topic=topic[1]), token=token)

    def _token(self, name: str) -> str:
        token: str = getattr(self, f"{name.lower()}_token")
        if token and not TOKEN.fullmatch(token):
            raise Misconfigured(f"SEAWALL_NOTIFY_{name}_TOKEN is no token: it holds a space, or what is no ASCII.")
        if token and not getattr(self, f"{name.lower()}_url"):
            raise Misconfigured(f"SEAWALL_NOTIFY_{name}_TOKEN is set, but SEAWALL_NOTIFY_{name}_URL is not.")
        return token

    def _address(self, url: str, name: str, *, with_secret: bool) -> WebAddress:
        """Take an address apart, and refuse what can be known to be wrong before it is used."""
        setting = f"SEAWALL_NOTIFY_{name}"
        address = WebAddress.parse(url, setting=setting)
        if with_secret and address.scheme == "http" and not self.allow_private:
            raise Misconfigured(f"{setting} must start with https://: a secret is sent there, for nobody else to read.")
        number = address.number()
        if address.host == "localhost" or address.host.endswith(".localhost"):
            number = PRIVATE[0][0].network_address
        reason = number and refusal(number, allow_private=self.allow_private)
        if number and reason:
            remedy = "; SEAWALL_NOTIFY_ALLOW_PRIVATE=true would allow it" if is_private_remedy(number) else ""
            raise Misconfigured(f"{setting} leads to {address.host}, which is {reason}: nothing is sent there{remedy}.")
        return address
