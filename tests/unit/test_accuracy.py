"""What is counted of rehearsals: whom the keeper suspected when it was asked, and what it said by itself."""

from seawall.drills.accuracy import Trial, as_json, is_good, markdown, trial_of
from seawall.drills.faults import Fault, fault_named
from seawall.telemetry.journal import Event


def fault(name: str) -> Fault:
    """Return one that there is."""
    found = fault_named(name)
    assert found is not None
    return found


def test_what_was_said_counts_from_the_moment_it_was_broken() -> None:
    events = [
        Event(90.0, "alert.fired", {}),
        Event(103.0, "alert.fired", {}),
        Event(104.5, "diagnosis", {"suspect": "disk"}),
        Event(107.0, "diagnosis", {"suspect": "locks"}),
    ]

    trial = trial_of(fault("blocking-lock"), {"suspect": "locks", "mechanism": "…"}, events, broken_s=100.0)

    assert trial.is_right
    assert (trial.alerted_s, trial.told, trial.told_s) == (3.0, "disk", 4.5)


def test_the_table_shows_what_was_taken_for_what() -> None:
    trials = [
        Trial(fault=fault("blocking-lock"), asked="locks", alerted_s=3.0, told="locks", told_s=4.0),
        Trial(fault=fault("blocking-lock"), asked="unknown", mechanism="Nothing explains it."),
        Trial(fault=fault("trap-old-transaction"), asked="locks", mechanism="It was idle."),
        Trial(fault=fault("replica-lagging"), why="it needs a replica"),
    ]

    table = markdown(trials)

    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    assert "| **1** |" in rows["blocking-lock"]
    assert "| 1 of 2 | 3.0 s | 4.0 s |" in rows["blocking-lock"]
    assert "0 of 1" in rows["trap-old-transaction"]
    assert "Right first suspect: 1 of 3 (33.3%)." in table
    assert "Traps taken: 1 of 1." in table
    assert "- replica-lagging: not tried: it needs a replica" in table


def test_nine_in_ten_have_to_be_right_and_no_trap_be_taken() -> None:
    right = [Trial(fault=fault("blocking-lock"), asked="locks")] * 9
    wrong = Trial(fault=fault("slow-disk"), asked="unknown")
    trapped = Trial(fault=fault("trap-old-transaction"), asked="locks")

    assert is_good([*right, wrong])
    assert not is_good([*right, wrong, wrong])
    assert not is_good([*right, trapped])
    assert not is_good([])
    assert as_json([wrong])[0]["right"] is False
