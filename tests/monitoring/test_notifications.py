"""Notices reach real receivers, each in its own words; one that is ill keeps no other from hearing."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.monitoring.receivers import never, receiving, running, says, until

from seawall.monitoring import payloads
from seawall.monitoring.notices import Notice, Status, resolution_of
from seawall.monitoring.notifications import NotificationSettings, Target
from seawall.monitoring.outbox import Delivery, Outbox, tell_once
from seawall.monitoring.posting import Poster
from seawall.monitoring.things import Severity

KEY = "R0123456789ABCDEFR0123456789ABCD"
OPENED = Notice(
    incident_id="inc-7",
    status=Status.OPENED,
    severity=Severity.PAGE,
    alert="availability",
    title="31 % of requests fail – “connections”",
    summary="Of 4,112 requests in 10 s 1,275 failed.",
    url="http://10.0.0.5:9002/incidents/inc-7",
    opened_s=1_795_000_000.0,
    at_s=1_795_000_004.0,
)
DIAGNOSED = replace(OPENED, status=Status.UPDATED, diagnosis=("Suspect: connections (96 %).",), impact="412 users")
RESOLVED = resolution_of(DIAGNOSED, at_s=1_795_000_312.0, summary="No request has failed for 60 s.")
STORY = (OPENED, DIAGNOSED, replace(DIAGNOSED, status=Status.ACKNOWLEDGED, by="Zoë"), RESOLVED)


@dataclass
class Journal:
    """Remembers what became of notices."""

    deliveries: list[Delivery] = field(default_factory=list)

    def write(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def sent(self, target: str) -> list[str]:
        return [one.status for one in self.deliveries if one.is_sent and one.target == target]

    def failed(self, target: str) -> list[str]:
        return [one.status for one in self.deliveries if not one.is_sent and one.target == target]


@asynccontextmanager
async def outbox_of(settings: NotificationSettings, journal: Journal, **choices: Any) -> AsyncIterator[Outbox]:
    poster = Poster(allow_private=settings.allow_private, post_s=choices.pop("post_s", 10.0))
    outbox = Outbox(settings.targets(), poster, tell=journal.write, **choices)
    async with running(outbox.run):
        yield outbox
    outbox.close()


@pytest.mark.parametrize(
    ("settings", "path", "token", "payload"),
    [
        (("webhook_url", "/hook?a=b"), "/hook?a=b", "webhook_token", payloads.alertmanager),
        (("slack_url", "/services/T0/B0/s3cret"), "/services/T0/B0/s3cret", "", payloads.slack),
        (("ntfy_url", "/on-call"), "/", "ntfy_token", lambda notice: payloads.ntfy(notice, topic="on-call")),
    ],
    ids=["webhook", "slack", "ntfy"],
)
async def test_the_story_of_an_incident_arrives_whole_and_in_order(
    settings: tuple[str, str], path: str, token: str, payload: Callable[[Notice], Any]
) -> None:
    journal = Journal()
    async with receiving(says(200)) as receiver:
        name, asked = settings
        chosen: dict[str, Any] = {name: receiver.url(asked), **({token: "t0ken"} if token else {})}
        async with outbox_of(NotificationSettings(**chosen, allow_private=True), journal) as outbox:
            for notice in STORY:
                outbox.put(notice)
                await until(lambda: not outbox.waiting)

    assert [request.json() for request in receiver.requests] == [payload(notice) for notice in STORY]
    assert {request.path for request in receiver.requests} == {path}
    assert {request.headers["content-type"] for request in receiver.requests} == {"application/json; charset=utf-8"}
    expected = "Bearer t0ken" if token else None
    assert {request.headers.get("authorization") for request in receiver.requests} == {expected}
    assert [one.status for one in journal.deliveries] == ["opened", "updated", "acknowledged", "resolved"]
    assert {one.kind for one in journal.deliveries} == {"notification.sent"}


async def test_pagerduty_is_told_to_trigger_acknowledge_and_resolve_one_alert() -> None:
    journal = Journal()
    async with receiving(says(202)) as receiver:
        settings = NotificationSettings(
            pagerduty_key=KEY, pagerduty_url=receiver.url("/v2/enqueue"), allow_private=True
        )
        async with outbox_of(settings, journal) as outbox:
            for notice in STORY:
                outbox.put(notice)
                await until(lambda: not outbox.waiting)

    events = [request.json() for request in receiver.requests]
    source = events[0]["payload"]["source"]
    assert source
    assert events == [payloads.pagerduty(notice, routing_key=KEY, source=source) for notice in STORY]
    assert [event["event_action"] for event in events] == ["trigger", "trigger", "acknowledge", "resolve"]
    assert {event["dedup_key"] for event in events} == {"inc-7"}
    assert {request.path for request in receiver.requests} == {"/v2/enqueue"}


async def test_a_target_that_never_answers_delays_no_other() -> None:
    journal = Journal()
    async with receiving(never) as silent, receiving() as well:
        settings = NotificationSettings(webhook_url=silent.url(), slack_url=well.url("/services/x"), allow_private=True)
        async with outbox_of(settings, journal) as outbox:
            for notice in STORY:
                outbox.put(notice)
            # All of it, long before the other is given up.
            await until(lambda: journal.sent("slack") == [notice.status.value for notice in STORY], within_s=9.0)
            assert not journal.sent("webhook")
            assert outbox.waiting == 4

    assert journal.failed("webhook") == [notice.status.value for notice in STORY]
    assert {one.reason for one in journal.deliveries if not one.is_sent} == {"the service was stopped before"}


async def test_a_target_that_is_ill_for_a_moment_hears_it_again() -> None:
    journal = Journal()
    async with receiving(says(500), says(200)) as receiver:
        settings = NotificationSettings(webhook_url=receiver.url(), allow_private=True)
        async with outbox_of(settings, journal) as outbox:
            outbox.put(OPENED)
            outbox.put(RESOLVED)
            await until(lambda: not outbox.waiting)

    assert [request.json()["status"] for request in receiver.requests] == ["firing", "firing", "resolved"]
    assert [(one.status, one.tries) for one in journal.deliveries] == [("opened", 2), ("resolved", 1)]


async def test_a_target_that_asks_for_time_gets_it() -> None:
    journal = Journal()
    async with receiving(says(429, "Retry-After: 2"), says(200)) as receiver:
        settings = NotificationSettings(webhook_url=receiver.url(), allow_private=True)
        async with outbox_of(settings, journal) as outbox:
            outbox.put(OPENED)
            await until(lambda: not outbox.waiting)

    first, second = receiver.requests
    # Without it, it would have been one second at the most.
    assert second.at_s - first.at_s >= 1.9


async def test_a_target_that_refuses_is_asked_once() -> None:
    journal = Journal()
    async with receiving(says(404), says(200)) as receiver:
        settings = NotificationSettings(webhook_url=receiver.url(), allow_private=True)
        async with outbox_of(settings, journal) as outbox:
            outbox.put(OPENED)
            outbox.put(RESOLVED)
            await until(lambda: not outbox.waiting)

    assert len(receiver.requests) == 2
    assert (journal.failed("webhook"), journal.sent("webhook")) == (["opened"], ["resolved"])
    assert "answered 404" in journal.deliveries[0].reason


async def test_a_target_that_stays_down_is_given_up() -> None:
    journal = Journal()
    async with receiving(says(503)) as receiver:
        settings = NotificationSettings(webhook_url=receiver.url(), allow_private=True)
        async with outbox_of(settings, journal, patience_s=1.0) as outbox:
            outbox.put(OPENED)
            await until(lambda: not outbox.waiting)

    (delivery,) = journal.deliveries
    assert (delivery.kind, delivery.reason) == ("notification.failed", "given up: answered 503")
    assert delivery.tries == len(receiver.requests)


async def test_nothing_secret_is_logged_or_written_down(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    journal = Journal()
    async with receiving(says(500), says(301, "Location: /s3cret"), says(404, body="s3cret"), says(200)) as receiver:
        settings = NotificationSettings(
            slack_url=receiver.url("/services/s3cret"),
            ntfy_url=receiver.url("/s3cret"),
            ntfy_token="s3cret",
            pagerduty_key="s3cret".ljust(32, "0"),
            pagerduty_url=receiver.url("/s3cret"),
            allow_private=True,
        )
        async with outbox_of(settings, journal) as outbox:
            for notice in STORY:
                outbox.put(notice)
            await until(lambda: not outbox.waiting)
            shown = repr((settings, outbox, settings.targets()))

    assert any(record.getMessage() == "notification.delayed" for record in caplog.records)
    assert "s3cret" not in "".join(str(vars(record)) for record in caplog.records)
    assert "s3cret" not in shown
    assert "s3cret" not in repr([one.fields() for one in journal.deliveries])
    assert {one.place for one in journal.deliveries} == {receiver.url("")}


async def test_a_journal_that_cannot_be_written_keeps_nobody_from_being_told() -> None:
    def full(_: Delivery) -> None:
        raise OSError(28, "No space left on device")

    async with receiving() as receiver:
        settings = NotificationSettings(webhook_url=receiver.url(), allow_private=True)
        outbox = Outbox(settings.targets(), Poster(allow_private=True), tell=full)
        async with running(outbox.run):
            outbox.put(OPENED)
            outbox.put(RESOLVED)
            await until(lambda: len(receiver.requests) == 2)
        outbox.close()


async def test_a_notice_that_cannot_be_written_holds_up_no_other() -> None:
    journal = Journal()

    def broken(notice: Notice) -> dict[str, Any]:
        if notice.status is Status.OPENED:
            raise ZeroDivisionError
        return {}

    async with receiving() as receiver:
        address = NotificationSettings(webhook_url=receiver.url(), allow_private=True).targets()[0].address
        target = Target(name="webhook", address=address, payload=broken)
        outbox = Outbox([target], Poster(allow_private=True), tell=journal.write)
        async with running(outbox.run):
            outbox.put(OPENED)
            outbox.put(RESOLVED)
            await until(lambda: not outbox.waiting)
        outbox.close()

    assert (journal.failed("webhook"), journal.sent("webhook")) == (["opened"], ["resolved"])


async def test_what_was_not_sent_when_the_loop_broke_is_sent_by_the_next() -> None:
    journal = Journal()
    async with receiving(never, says(200)) as receiver:
        settings = NotificationSettings(webhook_url=receiver.url(), allow_private=True)
        outbox = Outbox(settings.targets(), Poster(allow_private=True), tell=journal.write)
        async with running(outbox.run):
            outbox.put(OPENED)
            await until(lambda: receiver.requests)
        assert outbox.waiting == 1
        async with running(outbox.run):
            await until(lambda: not outbox.waiting)
        outbox.close()

    assert journal.sent("webhook") == ["opened"]


async def test_without_targets_nothing_is_done_and_nothing_fails() -> None:
    outbox = Outbox((), Poster(allow_private=False), tell=Journal().write)

    async with running(outbox.run):
        outbox.put(OPENED)
        await asyncio.sleep(0)

    assert outbox.waiting == 0
    outbox.close()


async def test_a_test_tells_each_target_once_and_says_what_came_back() -> None:
    async with receiving(says(200)) as well, receiving(says(410)) as revoked:
        settings = NotificationSettings(
            webhook_url=well.url(), slack_url=revoked.url("/services/s3cret"), allow_private=True
        )
        poster = Poster(allow_private=True)
        found = await tell_once(settings.targets(), poster, (OPENED, RESOLVED))
        poster.close()

    assert [(one.target, one.status, one.is_sent) for one in found] == [
        ("webhook", "opened", True),
        ("webhook", "resolved", True),
        ("slack", "opened", False),
    ]
    assert (len(well.requests), len(revoked.requests)) == (2, 1)
    assert "revoked" in found[-1].reason
