"""What incidents decide and say, without a disk, a database or a clock."""

import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.incidents import kit
from tests.incidents.kit import BEGAN_S, DETECTED_S, RECOVERED_S, RESOLVED_S, alert, diagnosis

from seawall.incidents import record
from seawall.incidents.case import end_of_bad
from seawall.incidents.desk import post_mortem
from seawall.incidents.figures import charts_of
from seawall.incidents.pages import Blank, Bullets, Document, Paragraph, Section, Table, html, markdown
from seawall.incidents.postmortem import Remedy, draft
from seawall.incidents.record import (
    Acknowledgement,
    Counts,
    Happening,
    Impact,
    Incident,
    acknowledged,
    acted,
    diagnosed,
    grown,
    happened,
    is_bad,
    joined,
    noted,
    opened,
    resolved,
)
from seawall.incidents.series import quantile_s
from seawall.incidents.similar import most_similar, shape_of, sketch
from seawall.incidents.store import Row
from seawall.incidents.summary import in_short, one_screen
from seawall.incidents.timeline import SENTENCES, timeline
from seawall.monitoring.things import Layer, RuledOut, Severity
from seawall.telemetry.charts import Chart, Mark, Series, draw, style

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)


def an_incident() -> Incident:
    return opened("2026-11-24-1", alert(), episode=kit.EPISODE, severity=Severity.PAGE)


# The record.


def test_it_begins_where_the_trouble_began_and_is_detected_when_the_alert_fired() -> None:
    incident = an_incident()

    assert (incident.began_s, incident.detected_s, incident.is_open) == (BEGAN_S, DETECTED_S, True)


def test_an_alert_that_becomes_worse_is_the_same_alert_again() -> None:
    worse = replace(alert(), fired_s=DETECTED_S + 9)

    incident = joined(an_incident(), worse, severity=Severity.PAGE)

    assert [raised.ended_s for raised in incident.alerts] == [DETECTED_S + 9, None]


def test_the_best_diagnosis_is_the_one_that_explains_most_and_when_it_was_first_named_counts() -> None:
    incident = an_incident()
    for one in (
        diagnosis(None, at_s=DETECTED_S + 1),
        diagnosis(Layer.NETWORK, at_s=DETECTED_S + 2, share=0.3),
        diagnosis(Layer.CONNECTIONS, at_s=DETECTED_S + 5, share=0.5),
        diagnosis(Layer.CONNECTIONS, at_s=DETECTED_S + 9, share=0.9),
        diagnosis(Layer.DEMAND, at_s=DETECTED_S + 20, share=0.4),
    ):
        incident = diagnosed(incident, one)

    assert incident.best is not None
    assert incident.best.share == 0.9
    assert incident.diagnosed_s == DETECTED_S + 5


def test_of_two_that_explain_as_much_the_first_is_believed() -> None:
    incident = diagnosed(an_incident(), diagnosis(Layer.DATABASE, share=0.96))

    incident = diagnosed(incident, diagnosis(Layer.PROCESSOR, at_s=RECOVERED_S, share=1.0))

    assert incident.best is not None
    assert incident.best.suspect is Layer.DATABASE


def test_what_is_found_after_the_recovery_explains_nothing_of_what_was_before() -> None:
    incident = diagnosed(an_incident(), diagnosis(share=0.6))
    incident = diagnosed(incident, diagnosis(Layer.PROCESSOR, at_s=RECOVERED_S + 9, share=1.0))

    incident = resolved(record.alert_ended(incident, alert(), RECOVERED_S), RESOLVED_S)

    assert incident.title.endswith("the database's connections were used up")
    assert incident.diagnosed_s == kit.DIAGNOSED_S


def test_bad_seconds_right_behind_the_end_of_the_alerts_belong_to_it() -> None:
    bad, well = {"reads.requests": 9.0, "reads.slow": 9.0}, {"reads.requests": 9.0}
    points = {10.0: bad, 11.0: bad, 12.0: bad, 13.0: well, 14.0: bad}
    rows = [Row(at_s=at_s, seconds=1.0, point=point) for at_s, point in points.items()]

    assert end_of_bad(rows, 11.0) == 13.0
    assert end_of_bad(rows, 13.0) == 13.0
    assert end_of_bad([], 13.0) == 13.0


def test_unknown_is_no_diagnosis_in_time() -> None:
    incident = diagnosed(an_incident(), diagnosis(None))

    assert incident.diagnosed_s is None
    assert incident.title.endswith(": cause not known")


def test_that_nothing_explains_what_is_hardly_there_any_more_is_not_kept() -> None:
    incident = diagnosed(an_incident(), diagnosis())

    assert diagnosed(incident, diagnosis(None, at_s=RECOVERED_S)) is incident


def test_a_diagnosis_that_says_the_same_again_is_not_kept_again() -> None:
    incident = diagnosed(an_incident(), diagnosis())

    assert diagnosed(incident, diagnosis(at_s=DETECTED_S + 30, share=0.88)) is incident


def test_what_was_undone_is_the_same_action() -> None:
    incident = acted(an_incident(), kit.action())

    undone = acted(incident, kit.action(undone_s=RECOVERED_S))

    assert [action.undone_s for action in undone.actions] == [RECOVERED_S]
    assert undone.mitigated_s == kit.MITIGATED_S


def test_who_took_it_first_stays() -> None:
    first = acknowledged(an_incident(), Acknowledgement(at_s=1.0, who="mara"))

    assert acknowledged(first, Acknowledgement(at_s=2.0, who="jon")) is first


def test_each_event_is_kept_once_and_in_order() -> None:
    late, early = (Happening(at_s=at_s, kind="node.died", fields={"node": "node-1"}) for at_s in (9.0, 3.0))

    incident = happened(happened(an_incident(), [late]), [late, early])

    assert incident.happenings == (early, late)


def test_nothing_in_it_grows_without_end() -> None:
    incident = an_incident()
    for number in range(700):
        incident = noted(incident, kit.note(str(number)))
        incident = happened(incident, [Happening(at_s=float(number), kind="node.silent", fields={})])
        incident = acted(incident, replace(kit.action(), at_s=float(number)))
        incident = diagnosed(incident, diagnosis((Layer.DISK, Layer.LOCKS)[number % 2], at_s=float(number)))

    assert len(incident.notes) == record.NOTES_MAX
    assert len(incident.happenings) == record.HAPPENINGS_MAX
    assert len(incident.actions) == record.ACTIONS_MAX
    assert len(incident.diagnoses) == record.DIAGNOSES_MAX
    # How it began and how it ended are there.
    assert [incident.notes[0].text, incident.notes[-1].text] == ["0", "699"]
    assert [incident.diagnoses[0].at_s, incident.diagnoses[-1].at_s] == [0.0, 699.0]


def test_it_recovers_where_the_trouble_ended_not_when_that_was_certain() -> None:
    ended = record.alert_ended(an_incident(), alert(), RECOVERED_S)

    incident = resolved(ended, RESOLVED_S)

    assert (incident.recovered_s, incident.resolved_s) == (RECOVERED_S, RESOLVED_S)


def test_a_clock_set_back_makes_no_incident_end_before_it_began() -> None:
    incident = resolved(record.alert_ended(an_incident(), alert(), BEGAN_S - 3600), BEGAN_S - 3590)

    assert incident.recovered_s == incident.began_s


def test_all_of_it_is_written_and_read_again() -> None:
    incident, _ = kit.whole()
    incident = noted(acknowledged(incident, Acknowledgement(at_s=1.0, who="mara")), kit.note("so it was"))

    assert Incident.from_json(incident.as_json()) == incident


# The impact.


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)), max_size=200))
def test_the_sums_are_those_of_the_seconds_and_the_worst_minute_is_one_of_them(
    seconds: list[tuple[int, int, int]],
) -> None:
    impact = Impact()
    minutes: dict[float, int] = {}
    for number, (requests, failed, slow) in enumerate(seconds):
        point = {"reads.requests": requests + failed + slow, "reads.failed": failed, "writes.slow": slow}
        impact = grown(impact, float(number), 1.0, point)
        minutes[number // 60 * 60] = minutes.get(number // 60 * 60, 0) + failed + slow

    assert impact.counts.failed == sum(failed for _, failed, _ in seconds)
    assert impact.watched_s == len(seconds)
    if seconds:
        assert impact.worst is not None
        assert impact.worst.counts.bad == max(minutes.values())


def test_a_second_is_bad_when_enough_of_it_was() -> None:
    assert is_bad({"reads.requests": 100, "reads.failed": 1})
    assert is_bad({"reads.requests": 100, "reads.refused": 1})
    assert is_bad({"reads.requests": 100, "reads.slow": 5})
    assert is_bad({"nodes.up": 0, "nodes.expected": 2})
    assert not is_bad({"reads.requests": 1000, "reads.failed": 1, "reads.slow": 9})
    assert is_bad({"nodes.up": 2, "nodes.ready": 0, "nodes.expected": 2})
    assert not is_bad({"nodes.up": 1, "nodes.ready": 1, "nodes.expected": 2})
    assert not is_bad({})


def test_the_headline_names_the_worst_that_many_had() -> None:
    def title(group: str, **counts: int) -> str:
        impact = Impact(groups={group: Counts(requests=1000, **counts)})
        return record.title_of(impact, [], diagnosis(Layer.DISK))

    assert title("reads", failed=300, slow=500) == "Files could not be read: the disk was slow, full or failing"
    assert title("writes", refused=300, slow=500).startswith("Writers were turned away")
    assert title("others", slow=500, failed=3).startswith("Listings and other requests were slow")


def test_a_headline_without_requests_names_the_alert() -> None:
    incident = opened("2026-11-24-1", alert("signal:disk.probe_s"), episode="e", severity=Severity.WARNING)

    assert incident.title == "Unusual: disk.probe_s"


# Likeness.


def test_an_incident_is_most_like_itself_and_the_same_suspect_counts_more_than_the_same_alert() -> None:
    one = sketch(kit.whole()[0])
    twin = replace(one, id="twin")
    same_suspect = replace(one, id="suspect", alerts=frozenset({"latency"}), shape={"network": 1.0})
    same_alert = replace(one, id="alert", suspect=Layer.DISK, shape={"disk": 1.0})

    found = most_similar(one, [same_alert, same_suspect, twin, one])

    assert [similar.id for similar in found] == ["twin", "suspect"]
    assert found[0].score == 1.0
    assert "time added in the same place (database wait, likeness 1.00)" in found[0].why


def test_what_is_not_known_counts_for_nothing() -> None:
    one = sketch(kit.whole()[0])
    at_once = replace(one, id="new", suspect=None, shape={})

    assert most_similar(at_once, [one])[0].score == 1.0


def test_hardly_any_added_time_has_no_shape() -> None:
    usual = {"reads.requests": 100.0, "reads.segment.disk": 1.0}

    assert shape_of([usual], [{"reads.requests": 100.0, "reads.segment.disk": 1.02}]) == {}
    assert shape_of([usual], [{"reads.requests": 100.0, "reads.segment.disk": 3.0}]) == {"disk": 1.0}
    assert shape_of([], []) == {}


# The timeline.


def test_every_line_has_a_time_and_says_where_it_was_read() -> None:
    incident, rows = kit.whole()

    lines = timeline(incident, rows)

    assert [line.at_s for line in lines] == sorted(line.at_s for line in lines)
    assert all(line.source and line.text and line.text[-1] in ".)!" for line in lines)
    assert [line.text.split()[0] for line in lines if line.is_milestone] == [
        "It", "Detected,", "Diagnosis:", "The", "Recovered,",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", sorted(SENTENCES))
def test_every_kind_of_event_is_a_sentence_also_without_any_of_its_fields(kind: str) -> None:
    full = {
        "node": "node-1", "pid": 42, "exit_code": 137, "reason": "because.", "name": "x", "target": "y", "by_s": -3.0,
        "silent_s": 5.0, "words": "it was gone.", "events": 4,
    }  # fmt: skip
    for fields in ({}, full, {"action": full}, {"by_s": "nonsense", "silent_s": None}):
        text = SENTENCES[kind](fields)
        assert text[0].isupper()
        assert text[-1] == "."
        assert ".." not in text
        assert "None" not in text


def test_what_was_measured_names_when_the_scarce_ran_out() -> None:
    incident, rows = kit.whole()

    texts = [line.text for line in timeline(incident, rows)]

    assert any(re.match(r"All 12 connections to the database were in use, and \d+ waited", text) for text in texts)
    assert any(text.startswith("PostgreSQL refused 4 connections as too many: it had 97 of 97") for text in texts)


def test_quantiles_lie_between_the_bounds_of_their_buckets() -> None:
    assert quantile_s([{"reads.le.0.1": 100.0}], 0.5) == pytest.approx(0.075)
    assert quantile_s([{"reads.le.0.1": 99.0, "reads.le.inf": 1.0}], 0.999) == 10.0
    assert quantile_s([{}], 0.5) is None


# The post-mortem.


class Page(HTMLParser):
    """What a page consists of. State: its tags, attributes, and the text people read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "action"}]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


SECTIONS = [
    "Summary", "Impact", "What it looked like", "Timeline", "Root cause and trigger", "What was ruled out",
    "Resolution", "Corrective and preventive actions", "What went well", "What went badly", "Where we got lucky",
    "Similar incidents",
]  # fmt: skip


def test_the_page_needs_nothing_else_and_leaves_room_for_people() -> None:
    incident, rows = kit.whole()
    text = post_mortem(incident, rows, "html", now_s=RESOLVED_S)

    page = Page(text)

    assert page.open == []
    assert page.addresses == []
    assert not {"script", "link", "iframe", "img", "object", "form"} & {*page.tags}
    assert "url(" not in text
    assert "@import" not in text
    assert all(section in page.text for section in SECTIONS)
    assert page.tags.count("svg") == 2 * len(charts_of(incident, rows))
    assert text.count('class="blank"') == 6
    assert len(text) < 400_000


def test_the_markdown_says_the_same() -> None:
    incident, rows = kit.whole()

    text = post_mortem(
        incident, rows, "md", now_s=RESOLVED_S, remedies=[Remedy(text="raise the limit", source="check-up")]
    )

    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert "| proposed | Raise the limit. | check-up |" in text
    assert "812 users of the 2,950 who asked for something (28 %)" in text
    assert text.count("For people to write") == 6


def test_what_a_person_did_is_an_occasion_and_never_the_cause() -> None:
    incident, rows = kit.whole()
    changed = Happening(at_s=BEGAN_S - 2, kind="settings.changed", fields={"nodes": "9"})

    text = post_mortem(happened(incident, [changed]), rows, "md", now_s=RESOLVED_S)

    cause = text.partition("## Root cause and trigger")[2].partition("##")[0]
    assert "Root cause: the database's connections were used up." in cause
    assert "Settings were changed: nodes = 9 (21:03:00, 2 s before the begin). That this could do harm is" in cause


def test_a_draft_can_be_made_of_next_to_nothing() -> None:
    for incident in (an_incident(), resolved(an_incident(), RESOLVED_S)):
        text = post_mortem(incident, [], "md", now_s=DETECTED_S + 1)
        page = Page(post_mortem(incident, [], "html", now_s=DETECTED_S + 1))

        assert "no request ended" in text
        assert "Not known: no diagnosis was made." in text
        assert "No measurements of that time were kept." in page.text


@given(WORDS)
def test_whatever_anybody_wrote_means_only_itself(words: str) -> None:
    document = Document(
        title=words,
        facts=[words],
        sections=[
            Section(
                title=words,
                blocks=[
                    Paragraph(words),
                    Bullets([words]),
                    Table(header=[words, "b"], rows=[[words, words]], is_wide=True),
                    Blank(words),
                ],
            )
        ],
        foot=words,
    )

    page = Page(html(document))
    table = [line for line in markdown(document).splitlines() if line.startswith("|")]

    assert page.open == []
    assert {*page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "p", "section", "h2", "ul", "li", "div",
        "table", "thead", "tbody", "tr", "th", "td", "b", "br", "footer", "code",
    }  # fmt: skip
    assert len(table) == 3
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table)


def test_notes_are_no_markup() -> None:
    incident, rows = kit.whole()
    incident = noted(incident, kit.note("<script>alert(1)</script> | **bold** [x](http://evil.example)\n# head"))

    page = Page(post_mortem(incident, rows, "html", now_s=RESOLVED_S))
    text = post_mortem(incident, rows, "md", now_s=RESOLVED_S)

    assert "script" not in page.tags
    assert r"\<script\>alert(1)\</script\> \| \*\*bold\*\* \[x\](http://evil.example) \# head" in text


def test_layers_that_are_not_well_either_are_not_called_innocent() -> None:
    incident, rows = kit.whole()

    text = post_mortem(incident, rows, "md", now_s=RESOLVED_S)

    ruled_out = text.partition("## What was ruled out")[2].partition("##")[0]
    assert "demand" not in ruled_out
    assert "`locks`" in ruled_out
    assert "`demand`: 2.6 times the usual is asked." in text


def test_one_screen_has_all_and_no_line_is_too_long() -> None:
    incident, rows = kit.whole()

    lines = one_screen(incident, rows, now_s=RESOLVED_S, width=90)

    assert max(len(line) for line in lines) <= 90
    assert len(lines) <= 60
    text = "\n".join(lines)
    for needed in ("812 of 2,950 users (28 %)", "suspect", "ruled out", "locks: No session waits", "+6 s", "ended"):
        assert needed in text


def test_an_open_one_says_who_has_it_and_what_to_do() -> None:
    incident = diagnosed(an_incident(), diagnosis())

    text = "\n".join(one_screen(incident, kit.rows(BEGAN_S - 60, BEGAN_S + 15), now_s=BEGAN_S + 15))

    assert "OPEN" in text
    assert "nobody yet: seawall incidents acknowledge 2026-11-24-1" in text
    assert "to do" in text
    assert in_short(incident)["suspect"] == "connections"


def test_the_draft_of_an_open_incident_says_that_it_goes_on() -> None:
    incident = diagnosed(an_incident(), diagnosis())

    document = draft(incident, kit.rows(BEGAN_S - 60, BEGAN_S + 15), now_s=BEGAN_S + 15)

    assert document.facts[-1] == "going on, as of 21:03:17"
    assert "and still" in markdown(document)


# Charts.


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e9)), min_size=0, max_size=30),
    st.sampled_from(["lines", "stacked", "logarithmic"]),
    st.sampled_from([(860, 250), (380, 270)]),
)
def test_whatever_is_drawn_is_sound_and_stays_inside(
    values: list[float | None], kind: str, size: tuple[int, int]
) -> None:
    width, height = size
    moments = [BEGAN_S + number for number in range(len(values))]
    chart = Chart(
        title="<&>",
        moments=moments,
        series=[Series(name="a & b", colour="bad", values=values), Series(name="c", colour="blue", values=values)],
        unit="s",
        marks=[Mark(at_s=BEGAN_S + number, number=number) for number in range(5)],
        shaded=(BEGAN_S - 100, BEGAN_S + 1e6),
        is_stacked=kind == "stacked",
        is_logarithmic=kind == "logarithmic",
    )

    root = ElementTree.fromstring(draw(chart, width=width, height=height, own_style=style()))

    for shape in root.iter():
        for pair in shape.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
        for name, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(shape.get(name, 0)) <= most


def test_a_layer_that_is_suspected_is_shown() -> None:
    incident, rows = kit.whole()
    of_disk = replace(
        incident, diagnoses=(replace(diagnosis(Layer.DISK), ruled_out=(RuledOut(layer=Layer.LOCKS, reason="none"),)),)
    )

    titles = [chart.title for chart in charts_of(of_disk, rows)]

    assert titles[-1] == "A small write with a sync in the data directory"
    assert titles[0] == "Requests by outcome"
