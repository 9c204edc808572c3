"""How the keeper took a drill, from the record of its incident."""

from typing import Any

from seawall.drills.response import response_of

BEGAN_S, ENDED_S = 1000.0, 1040.0


def record(*alerts: tuple[float, float | None], diagnoses: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "id": "2026-11-24-1",
        "title": "Files could not be read",
        "actions": [],
        "diagnoses": diagnoses or [],
        "alerts": [{"alert": {"fired_s": fired_s}, "ended_s": ended_s} for fired_s, ended_s in alerts],
    }


def test_times_count_from_the_begin_of_the_trouble() -> None:
    found = response_of(record((1002.0, 1012.0), (1004.0, 1015.0)), began_s=BEGAN_S, ended_s=ENDED_S, post_mortem={})

    assert (found.detected_s, found.diagnosed_s, found.mitigated_s, found.recovered_s) == (2.0, None, None, 15.0)
    assert found.suspect == "unknown"


def test_that_the_load_ended_is_no_trouble_and_what_goes_on_is() -> None:
    over = response_of(record((1002.0, 1012.0), (1043.0, None)), began_s=BEGAN_S, ended_s=ENDED_S, post_mortem={})
    goes_on = response_of(record((1002.0, None), (1004.0, 1015.0)), began_s=BEGAN_S, ended_s=ENDED_S, post_mortem={})

    assert over.recovered_s == 12.0
    assert goes_on.recovered_s is None


def test_the_suspect_is_the_one_that_explains_most() -> None:
    diagnoses: list[dict[str, Any]] = [
        {"suspect": None, "share": None, "at_s": 1001.0},
        {"suspect": "tenant", "share": 0.2, "at_s": 1002.0},
        {"suspect": "demand", "share": 0.9, "at_s": 1003.0},
    ]

    found = response_of(record(diagnoses=diagnoses), began_s=BEGAN_S, ended_s=ENDED_S, post_mortem={})

    assert (found.suspect, found.diagnosed_s) == ("demand", 2.0)
    assert found.recovered_s is None


def test_what_was_not_over_when_it_began_is_another_trouble() -> None:
    found = response_of(record((970.0, 990.0), (1003.0, 1015.0)), began_s=BEGAN_S, ended_s=ENDED_S, post_mortem={})

    assert found.detected_s == 3.0
