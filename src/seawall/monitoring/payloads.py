"""A notice as each service wants it: plain functions from a notice to what `json.dumps` writes.

Sources: Prometheus, "Alerting: configuration, webhook_config"; Slack, "Sending messages using incoming webhooks" and
"Block Kit"; PagerDuty, "Events API v2"; ntfy, "Publish as JSON".
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from seawall.monitoring.notices import Notice, Status
from seawall.monitoring.things import Severity

RECEIVER = "seawall"
# What Go writes for a time that is not set; Alertmanager sends it as the end of what still burns.
NO_TIME = "0001-01-01T00:00:00Z"

SLACK_HEADER_MAX = 150
SLACK_TEXT_MAX = 3000
PAGERDUTY_SUMMARY_MAX = 1024
PAGERDUTY_KEY_MAX = 255
NTFY_TITLE_MAX = 250
# ntfy makes a file of a message of more than 4,096 bytes.
NTFY_MESSAGE_MAX_BYTES = 3800

SIGNS: Mapping[Status, str] = {
    Status.OPENED: "🔴",
    Status.UPDATED: "🔎",
    Status.ACKNOWLEDGED: "👀",
    Status.RESOLVED: "✅",
}
WORDS: Mapping[Status, str] = {
    Status.OPENED: "Opened",
    Status.UPDATED: "Update",
    Status.ACKNOWLEDGED: "Acknowledged",
    Status.RESOLVED: "Resolved",
}
PAGERDUTY_ACTIONS: Mapping[Status, str] = {
    Status.OPENED: "trigger",
    Status.UPDATED: "trigger",
    Status.ACKNOWLEDGED: "acknowledge",
    Status.RESOLVED: "resolve",
}
PAGERDUTY_SEVERITIES: Mapping[Severity, str] = {Severity.PAGE: "critical", Severity.WARNING: "warning"}
NTFY_TAGS: Mapping[Status, str] = {
    Status.OPENED: "rotating_light",
    Status.UPDATED: "mag",
    Status.ACKNOWLEDGED: "eyes",
    Status.RESOLVED: "white_check_mark",
}


def alertmanager(notice: Notice) -> dict[str, Any]:
    """Return what Alertmanager 0.x sends to a webhook, version 4.

    The group and the fingerprint are those of the incident alone, so that they stay the same from its first notice to
    its last, also when its severity rises.
    """
    status = "resolved" if notice.status is Status.RESOLVED else "firing"
    group = {"incident": notice.incident_id}
    labels = {
        "alertname": notice.alert,
        "incident": notice.incident_id,
        "service": RECEIVER,
        "severity": notice.severity.value,
    }
    annotations = {
        "summary": notice.title,
        "description": notice.summary,
        "diagnosis": "\n".join(notice.diagnosis),
        "impact": notice.impact,
        "acknowledged_by": notice.by,
    }
    annotations = {name: text for name, text in annotations.items() if text}
    quoted = notice.incident_id.replace("\\", "\\\\").replace('"', '\\"')
    return {
        "version": "4",
        "groupKey": f'{{}}:{{incident="{quoted}"}}',
        "truncatedAlerts": 0,
        "status": status,
        "receiver": RECEIVER,
        "groupLabels": group,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": origin(notice.url),
        "alerts": [
            {
                "status": status,
                "labels": labels,
                "annotations": annotations,
                "startsAt": rfc3339(notice.opened_s),
                "endsAt": NO_TIME if notice.resolved_s is None else rfc3339(notice.resolved_s),
                "generatorURL": notice.url,
                "fingerprint": fingerprint(group),
            }
        ],
    }


def slack(notice: Notice) -> dict[str, Any]:
    """Return a message in blocks, with the text that shows where blocks do not: in notifications."""
    sign = "🟠" if notice.status is Status.OPENED and notice.severity is Severity.WARNING else SIGNS[notice.status]
    title = f"{sign} {WORDS[notice.status]}: {notice.title}"
    texts = [slack_text(notice.summary)]
    if notice.diagnosis:
        texts.append("\n".join(["*Diagnosis*", *(f"• {slack_text(line)}" for line in notice.diagnosis)]))
    if notice.impact:
        texts.append(f"*Impact*\n{slack_text(notice.impact)}")
    context = [f"Incident `{slack_text(notice.incident_id)}`", notice.severity.value, f"since {slack_time(notice)}"]
    if notice.by:
        context.append(f"taken on by {slack_text(notice.by)}")
    if notice.resolved_s is not None:
        context.append(f"lasted {duration(notice.resolved_s - notice.opened_s)}")
    if notice.url:
        context.append(f"<{slack_url(notice.url)}|Open the incident>")
    sections: list[dict[str, Any]] = [
        # Verbatim: what looks like a channel or a person in our sentences calls nobody.
        {"type": "section", "text": {"type": "mrkdwn", "text": clipped(text, SLACK_TEXT_MAX), "verbatim": True}}
        for text in texts
        if text
    ]
    return {
        "text": clipped(slack_text(f"{title} {notice.summary}".strip()), SLACK_TEXT_MAX),
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": clipped(title, SLACK_HEADER_MAX), "emoji": True}},
            *sections,
            {"type": "context", "elements": [{"type": "mrkdwn", "text": " · ".join(context), "verbatim": True}]},
        ],
    }


def pagerduty(notice: Notice, *, routing_key: str, source: str) -> dict[str, Any]:
    """Return an event of the Events API v2.

    Every notice of an incident has its id as `dedup_key`, so that a repeated one changes nothing, and a later one
    is noted on the same alert.

    Args:
        routing_key: the integration key of a service there.
        source: what is ill: the name of this machine or service.
    """
    details = {
        "summary": notice.summary,
        "diagnosis": list(notice.diagnosis),
        "impact": notice.impact,
        "acknowledged by": notice.by,
        "incident": notice.incident_id,
    }
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": PAGERDUTY_ACTIONS[notice.status],
        "dedup_key": notice.incident_id[:PAGERDUTY_KEY_MAX],
        "payload": {
            "summary": clipped(f"{notice.title}: {notice.summary}", PAGERDUTY_SUMMARY_MAX),
            "source": source,
            "severity": PAGERDUTY_SEVERITIES[notice.severity],
            "timestamp": rfc3339(notice.at_s),
            "component": RECEIVER,
            "class": notice.alert,
            "custom_details": {name: value for name, value in details.items() if value},
        },
        "client": "Seawall",
    }
    if notice.url:
        event |= {"client_url": notice.url, "links": [{"href": notice.url, "text": "The incident"}]}
    return event


def ntfy(notice: Notice, *, topic: str) -> dict[str, Any]:
    """Return a message to publish as JSON at the root of the server.

    Not by headers (`Title`, `Priority`, `Tags`, `Click`) to the topic: a header is no place for UTF-8.
    """
    lines = [notice.summary, *(f"• {line}" for line in notice.diagnosis), notice.impact]
    if notice.by:
        lines.append(f"Taken on by {notice.by}.")
    if notice.resolved_s is not None:
        lines.append(f"It lasted {duration(notice.resolved_s - notice.opened_s)}.")
    message = "\n".join(line for line in lines if line)
    found: dict[str, Any] = {
        "topic": topic,
        "title": clipped(f"{WORDS[notice.status]}: {notice.title}", NTFY_TITLE_MAX),
        "message": clipped_bytes(message, NTFY_MESSAGE_MAX_BYTES),
        "priority": ntfy_priority(notice),
        "tags": [NTFY_TAGS[notice.status], notice.severity.value],
    }
    if notice.url:
        found["click"] = notice.url
    return found


def ntfy_priority(notice: Notice) -> int:
    """Return 1 to 5: only what somebody has to get up for rings (5 passes by a phone's silence)."""
    if notice.status is Status.OPENED:
        return 5 if notice.severity is Severity.PAGE else 4
    return 2 if notice.status is Status.ACKNOWLEDGED else 3


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return the name Prometheus gives to a set of labels: FNV-1a of the sorted names and values, in hex.

    >>> fingerprint({})
    'cbf29ce484222325'

    Source: `LabelSet.Fingerprint` in prometheus/common/model.
    """
    found = 0xCBF29CE484222325
    for name in sorted(labels):
        for byte in (*name.encode(), 255, *labels[name].encode(), 255):
            found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{found:016x}"


def rfc3339(at_s: float) -> str:
    """Return a moment as JSON carries it.

    >>> rfc3339(1764000000.25)
    '2025-11-24T16:00:00.250Z'
    """
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """Return a length of time for people.

    >>> duration(7), duration(312), duration(7500)
    ('7 s', '5 min 12 s', '2 h 5 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def origin(url: str) -> str:
    """Return scheme and host of an address, the root of what it is a page of.

    >>> origin("http://10.0.0.5:9002/incidents/7"), origin("")
    ('http://10.0.0.5:9002', '')
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def slack_text(text: str) -> str:
    """Return text that Slack shows as it is.

    >>> slack_text("<!channel> R&D")
    '&lt;!channel&gt; R&amp;D'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def slack_url(url: str) -> str:
    """Return an address that ends where its link ends."""
    return slack_text(url).replace("|", "%7C")


def slack_time(notice: Notice) -> str:
    """Return when it began, in the reader's own time zone where the reader's Slack can tell it."""
    plain = datetime.fromtimestamp(notice.opened_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"<!date^{int(notice.opened_s)}^{{date_num}} {{time_secs}}|{plain}>"


def clipped(text: str, most: int) -> str:
    """Return at most so many characters of a text, and show where it was cut.

    >>> clipped("too many connections", 9)
    'too many…'
    """
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def clipped_bytes(text: str, most: int) -> str:
    """Return as much of a text as has at most so many bytes in UTF-8, and show where it was cut."""
    data = text.encode(errors="replace")
    return text if len(data) <= most else data[: most - 3].decode(errors="ignore").rstrip() + "…"
