"""A notice as each service wants it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from seawall.monitoring import payloads
from seawall.monitoring.notices import Notice, Status, resolution_of, sample_notice
from seawall.monitoring.things import Severity

AT_S = 1_795_000_000.0
OPENED = Notice(
    incident_id="inc-7",
    status=Status.OPENED,
    severity=Severity.PAGE,
    alert="availability",
    title="31 % of requests fail",
    summary="Of 4,112 requests in 10 s 1,275 failed; the objective is 0.1 %.",
    impact="412 of 1,377 users",
    url="http://10.0.0.5:9002/incidents/inc-7",
    opened_s=AT_S,
    at_s=AT_S + 4,
)
DIAGNOSED = replace(OPENED, status=Status.UPDATED, diagnosis=("Suspect: connections (96 %).", "7 of 7 are lent."))
ACKNOWLEDGED = replace(DIAGNOSED, status=Status.ACKNOWLEDGED, by="Zoë")
RESOLVED = resolution_of(DIAGNOSED, at_s=AT_S + 312, summary="No request has failed for 60 s.")


def test_alertmanagers_payload_is_whole() -> None:
    labels = {"alertname": "availability", "incident": "inc-7", "service": "seawall", "severity": "page"}
    annotations = {
        "summary": "31 % of requests fail",
        "description": "Of 4,112 requests in 10 s 1,275 failed; the objective is 0.1 %.",
        "impact": "412 of 1,377 users",
    }

    assert payloads.alertmanager(OPENED) == {
        "version": "4",
        "groupKey": '{}:{incident="inc-7"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "seawall",
        "groupLabels": {"incident": "inc-7"},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "http://10.0.0.5:9002",
        "alerts": [
            {
                "status": "firing",
                "labels": labels,
                "annotations": annotations,
                "startsAt": "2026-11-18T11:06:40.000Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "http://10.0.0.5:9002/incidents/inc-7",
                "fingerprint": "18a1f94c949758e9",
            }
        ],
    }


def test_a_resolved_incident_has_an_end_and_the_same_fingerprint_also_when_it_became_worse() -> None:
    first = payloads.alertmanager(replace(OPENED, severity=Severity.WARNING))
    last = payloads.alertmanager(RESOLVED)

    assert (first["status"], last["status"], last["alerts"][0]["status"]) == ("firing", "resolved", "resolved")
    assert last["alerts"][0]["endsAt"] == "2026-11-18T11:11:52.000Z"
    assert first["alerts"][0]["fingerprint"] == last["alerts"][0]["fingerprint"]
    assert first["groupKey"] == last["groupKey"]


def test_fingerprints_are_those_of_alertmanager() -> None:
    # Alertmanager 0.25 gives this one to these labels.
    assert payloads.fingerprint({"incident": "inc-7"}) == "18a1f94c949758e9"
    assert payloads.fingerprint({"a": "b", "c": "d"}) == payloads.fingerprint({"c": "d", "a": "b"})
    assert len({payloads.fingerprint(labels) for labels in ({"a": "bc"}, {"ab": "c"}, {"a": "b"}, {"a": "c"})}) == 4


def test_slacks_message_is_whole() -> None:
    found = payloads.slack(DIAGNOSED)

    assert found == {
        "text": "🔎 Update: 31 % of requests fail Of 4,112 requests in 10 s 1,275 failed; the objective is 0.1 %.",
        "blocks": [
            {
                "type": "header",
                "text": {"type": "plain_text", "text": "🔎 Update: 31 % of requests fail", "emoji": True},
            },
            section("Of 4,112 requests in 10 s 1,275 failed; the objective is 0.1 %."),
            section("*Diagnosis*\n• Suspect: connections (96 %).\n• 7 of 7 are lent."),
            section("*Impact*\n412 of 1,377 users"),
            {
                "type": "context",
                "elements": [
                    {
                        "type": "mrkdwn",
                        "text": "Incident `inc-7` · page · since "
                        "<!date^1795000000^{date_num} {time_secs}|2026-11-18 11:06:40 UTC> · "
                        "<http://10.0.0.5:9002/incidents/inc-7|Open the incident>",
                        "verbatim": True,
                    }
                ],
            },
        ],
    }


def section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def test_nothing_in_a_notice_calls_a_channel_or_makes_a_link_in_slack() -> None:
    hostile = replace(DIAGNOSED, title="<!channel>", summary="<http://evil|here> & <@U1>", diagnosis=("<!here>",))

    found = payloads.slack(hostile)

    # The header is plain text: nothing in it is read.
    told = [found["text"], *(block["text"]["text"] for block in found["blocks"] if block["type"] == "section")]
    assert not any("<" in text for text in told)
    assert "&lt;http://evil|here&gt; &amp; &lt;@U1&gt;" in told


def test_an_address_cannot_leave_its_link_in_slack() -> None:
    found = payloads.slack(replace(OPENED, url="http://host/a|b>c&d"))

    assert "<http://host/a%7Cb&gt;c&amp;d|Open the incident>" in found["blocks"][-1]["elements"][0]["text"]


def test_slack_hears_who_took_it_on_and_how_long_it_lasted() -> None:
    assert "taken on by Zoë" in payloads.slack(ACKNOWLEDGED)["blocks"][-1]["elements"][0]["text"]
    assert "lasted 5 min 12 s" in payloads.slack(RESOLVED)["blocks"][-1]["elements"][0]["text"]


@pytest.mark.parametrize(
    ("notice", "action"),
    [(OPENED, "trigger"), (DIAGNOSED, "trigger"), (ACKNOWLEDGED, "acknowledge"), (RESOLVED, "resolve")],
)
def test_pagerduty_hears_what_happened_under_the_same_key(notice: Notice, action: str) -> None:
    found = payloads.pagerduty(notice, routing_key="R" * 32, source="db-1")

    assert (found["event_action"], found["dedup_key"]) == (action, "inc-7")


def test_pagerdutys_event_is_whole() -> None:
    assert payloads.pagerduty(DIAGNOSED, routing_key="R" * 32, source="db-1") == {
        "routing_key": "R" * 32,
        "event_action": "trigger",
        "dedup_key": "inc-7",
        "payload": {
            "summary": "31 % of requests fail: Of 4,112 requests in 10 s 1,275 failed; the objective is 0.1 %.",
            "source": "db-1",
            "severity": "critical",
            "timestamp": "2026-11-18T11:06:44.000Z",
            "component": "seawall",
            "class": "availability",
            "custom_details": {
                "summary": "Of 4,112 requests in 10 s 1,275 failed; the objective is 0.1 %.",
                "diagnosis": ["Suspect: connections (96 %).", "7 of 7 are lent."],
                "impact": "412 of 1,377 users",
                "incident": "inc-7",
            },
        },
        "client": "Seawall",
        "client_url": "http://10.0.0.5:9002/incidents/inc-7",
        "links": [{"href": "http://10.0.0.5:9002/incidents/inc-7", "text": "The incident"}],
    }


def test_ntfys_message_is_whole_and_only_a_page_rings() -> None:
    assert payloads.ntfy(DIAGNOSED, topic="on-call") == {
        "topic": "on-call",
        "title": "Update: 31 % of requests fail",
        "message": "Of 4,112 requests in 10 s 1,275 failed; the objective is 0.1 %.\n• Suspect: connections (96 %).\n"
        "• 7 of 7 are lent.\n412 of 1,377 users",
        "priority": 3,
        "tags": ["mag", "page"],
        "click": "http://10.0.0.5:9002/incidents/inc-7",
    }
    priorities = [payloads.ntfy_priority(notice) for notice in (OPENED, ACKNOWLEDGED, RESOLVED)]
    assert priorities == [5, 2, 3]
    assert payloads.ntfy_priority(replace(OPENED, severity=Severity.WARNING)) == 4


def test_what_is_too_long_for_a_service_is_cut_and_shows_it() -> None:
    long = replace(DIAGNOSED, title="ä" * 9000, summary="ö" * 9000, diagnosis=("ü<" * 9000,) * 3)

    slack, ntfy = payloads.slack(long), payloads.ntfy(long, topic="t")
    pagerduty = payloads.pagerduty(long, routing_key="R" * 32, source="s")

    assert len(slack["blocks"][0]["text"]["text"]) == 150
    assert max(len(block["text"]["text"]) for block in slack["blocks"][1:-1]) == 3000
    assert len(slack["text"]) == 3000
    assert len(pagerduty["payload"]["summary"]) == 1024
    assert len(ntfy["message"].encode()) <= 3800
    assert ntfy["message"].endswith("…")
    assert len(json.dumps(pagerduty)) < 512 * 1024


def test_what_is_not_known_is_left_out() -> None:
    bare = replace(OPENED, impact="", url="")

    assert payloads.alertmanager(bare)["externalURL"] == ""
    assert "impact" not in payloads.alertmanager(bare)["commonAnnotations"]
    assert "links" not in payloads.pagerduty(bare, routing_key="R" * 32, source="s")
    assert "click" not in payloads.ntfy(bare, topic="t")
    assert "Open the incident" not in json.dumps(payloads.slack(bare))


def test_a_test_says_that_it_is_one() -> None:
    assert "seawall notify test" in sample_notice(at_s=AT_S).summary


@pytest.mark.parametrize("change", [{"title": ""}, {"incident_id": ""}, {"resolved_s": 1.0}])
def test_a_notice_refuses_to_be_nonsense(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="incident"):
        replace(OPENED, **change)  # type: ignore[arg-type]


def test_the_page_shows_what_is_sent() -> None:
    page = Path(__file__).parents[2] / "docs" / "notifications.md"
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)]

    assert shown == [
        payloads.alertmanager(DIAGNOSED),
        payloads.slack(DIAGNOSED),
        payloads.pagerduty(DIAGNOSED, routing_key="R0123456789ABCDEFR0123456789ABCD", source="db-1"),
        payloads.ntfy(DIAGNOSED, topic="on-call"),
    ]
