"""The judge of other tests is judged first: by histories people agree on, and by trying every order."""

import random
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.database.linearizability import Kind, Operation, is_linearizable, violation, violations

LOST = None
"""When the client never learnt the answer."""


def put(value: Hashable, invoked_ns: int, answered_ns: int | None, key: str = "k") -> Operation:
    return Operation(kind="put", key=key, value=value, invoked_ns=invoked_ns, answered_ns=answered_ns)


def get(value: Hashable, invoked_ns: int, answered_ns: int | None, key: str = "k") -> Operation:
    return Operation(kind="get", key=key, value=value, invoked_ns=invoked_ns, answered_ns=answered_ns)


def delete(invoked_ns: int, answered_ns: int | None, key: str = "k") -> Operation:
    return Operation(kind="delete", key=key, invoked_ns=invoked_ns, answered_ns=answered_ns)


GOOD = {
    "nothing happened": [],
    "missing in the beginning": [get(None, 0, 1)],
    "read your write": [put(1, 0, 1), get(1, 2, 3)],
    "a get during a put sees either": [put(1, 0, 1), put(2, 2, 9), get(1, 3, 4), get(2, 5, 6), get(2, 7, 8)],
    "gets on either side of an overlapping pair": [put(1, 0, 9), put(2, 0, 9), get(1, 1, 2), get(2, 3, 4)],
    "concurrent puts in the order opposite to their answers": [put(1, 0, 5), put(2, 1, 4), get(1, 6, 7)],
    "deleted, then missing": [put(1, 0, 1), delete(2, 3), get(None, 4, 5)],
    "a get that began before the delete ended": [put(1, 0, 1), delete(2, 5), get(1, 3, 8)],
    "a put nobody saw, between two that were": [put(1, 0, 1), put(2, 2, 9), put(3, 2, 9), get(1, 3, 4), get(3, 5, 6)],
    "seen by a slow get, hidden from all others": [
        put(1, 0, 9),
        put(2, 1, 3),
        get(2, 4, 5),
        get(1, 2, 8),
        get(2, 9, 10),
    ],
    "a tie in time accuses nobody": [put(1, 0, 5), get(None, 5, 6), get(1, 7, 8)],
    "lost and never applied": [put(1, 0, 1), put(2, 2, LOST), get(1, 3, 4), get(1, 50, 51)],
    "lost and applied late": [put(1, 0, 1), put(2, 2, LOST), get(1, 3, 4), put(3, 5, 6), get(3, 7, 8), get(2, 50, 51)],
    "a lost delete that took effect late": [put(1, 0, 1), delete(2, LOST), get(1, 3, 4), get(None, 50, 51)],
    "two lost puts of the same value, each once": [
        *[put(7, 0, LOST), put(7, 1, LOST), put(1, 2, 3)],
        *[get(7, 4, 5), put(2, 6, 7), get(7, 8, 9)],
    ],
    "a lost get says nothing": [put(1, 0, 1), get(99, 2, LOST), get(1, 3, 4)],
}

BAD = {
    "stale read": [put(1, 0, 1), put(2, 2, 3), get(1, 4, 5)],
    "lost write": [put(1, 0, 1), get(None, 2, 3)],
    "resurrected delete": [put(1, 0, 1), delete(2, 3), get(None, 4, 5), get(1, 6, 7)],
    "read from the future": [get(1, 0, 1), put(1, 2, 3)],
    "never written": [put(1, 0, 1), get(2, 2, 3)],
    "two gets of one client go backwards": [put(1, 0, 1), put(2, 2, 9), get(2, 3, 4), get(1, 5, 6)],
    "two gets of two clients go backwards": [put(1, 0, 1), put(2, 2, 20), get(2, 3, 7), get(1, 8, 9), get(2, 10, 11)],
    "the order of two puts that do not overlap": [put(1, 0, 1), put(2, 2, 3), get(2, 4, 5), get(1, 6, 7)],
    "two readers disagree about the order of two puts": [
        *[put(1, 0, 9), put(2, 0, 9)],
        *[get(1, 10, 11), get(2, 12, 13)],
    ],
    "there and back again": [put(1, 0, 20), put(2, 0, 20), get(1, 1, 2), get(2, 3, 4), get(1, 5, 6)],
    "a put undone": [put(1, 0, 9), get(1, 1, 2), get(None, 3, 4)],
    "lost and applied twice": [put(7, 0, LOST), put(1, 2, 3), get(7, 4, 5), put(2, 6, 7), get(7, 8, 9)],
    "lost and applied before its call": [get(7, 0, 1), put(7, 2, LOST)],
    "a lost put seen, then gone without another write": [put(1, 0, 1), put(2, 2, LOST), get(2, 3, 4), get(1, 5, 6)],
    "a lost delete applied twice": [
        *[put(1, 0, 1), delete(2, LOST), get(None, 3, 4)],
        *[put(2, 5, 6), get(2, 7, 8), get(None, 9, 10)],
    ],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_what_one_copy_could_have_answered_is_accepted(history: list[Operation]) -> None:
    assert by_trying_every_order(history)
    assert violations(history) == []


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_what_one_copy_could_not_have_answered_is_refused(history: list[Operation]) -> None:
    assert not by_trying_every_order(history)
    assert not is_linearizable(history)


def test_a_violation_names_the_answer_the_possible_values_and_who_was_about() -> None:
    earlier, later, stale = put("a", 0, 1), put("b", 2, 9), get("a", 5, 6)
    seen = replace(get("b", 3, 4), client="ann")
    distant = get("b", 20, 21)

    [found] = violations([distant, stale, seen, later, earlier])

    assert found.operation == stale
    assert found.possible == {"b"}
    assert found.around == (later,)
    assert "key 'k': somebody get: 'a'" in str(found)
    assert "held one of 'b'" in str(found)


def test_keys_are_judged_alone_and_each_bad_one_is_named() -> None:
    history = [put(1, 0, 1, "a"), get(1, 2, 3, "a"), get(1, 2, 3, "b"), put(1, 4, 5, "c"), get(None, 6, 7, "c")]

    assert [one.operation.key for one in violations(history)] == ["b", "c"]


@pytest.mark.parametrize(
    ("kind", "value", "answered_ns"), [("put", None, 5), ("delete", 1, 5), ("get", 1, -1)], ids=["put", "delete", "get"]
)
def test_an_operation_refuses_to_be_nonsense(kind: Kind, value: Hashable, answered_ns: int) -> None:
    with pytest.raises(ValueError, match=r"puts nothing|deletes and has|before it was asked"):
        Operation(kind=kind, key="k", value=value, invoked_ns=0, answered_ns=answered_ns)


@st.composite
def any_history(draw: st.DrawFn) -> list[Operation]:
    """Up to seven operations at any times with any answers: most are nonsense, and close calls abound."""
    history = []
    for _ in range(draw(st.integers(1, 7))):
        kind: Kind = draw(st.sampled_from(["put", "get", "get", "delete"]))
        invoked_ns = draw(st.integers(0, 12))
        answered_ns = (
            draw(st.none() | st.integers(invoked_ns, 14)) if kind != "get" else draw(st.integers(invoked_ns, 14))
        )
        value = {"put": st.sampled_from([1, 2]), "get": st.sampled_from([None, 1, 2]), "delete": st.none()}[kind]
        history.append(Operation(kind=kind, key="k", value=draw(value), invoked_ns=invoked_ns, answered_ns=answered_ns))
    return history


@st.composite
def a_real_history(draw: st.DrawFn, *, clients_max: int = 8, operations_max: int = 60) -> list[Operation]:
    """What clients of one atomic register see: each waits, asks, is delayed on the way there and back.

    Every put has a value of its own. Some lose their answer, and their write is applied late or never.
    """
    randomness = random.Random(draw(st.integers(0, 2**32)))
    return register_history(
        randomness,
        clients=draw(st.integers(1, clients_max)),
        operations=draw(st.integers(1, operations_max)),
        lost_share=draw(st.sampled_from([0.0, 0.1, 0.4])),
        reads_share=draw(st.sampled_from([0.2, 0.5, 0.8])),
    )


def register_history(
    randomness: random.Random, *, clients: int, operations: int, lost_share: float, reads_share: float
) -> list[Operation]:
    moments: list[tuple[int, Operation]] = []
    for client in range(clients):
        now_ns = randomness.randrange(20)
        for number in range(-(-operations // clients)):
            invoked_ns = now_ns + randomness.randrange(10)
            effect_ns = invoked_ns + randomness.randrange(20)
            now_ns = effect_ns + randomness.randrange(20)
            answered_ns: int | None = now_ns
            if randomness.random() < reads_share:
                kind: Kind = "get"
            else:
                kind = "delete" if randomness.random() < 0.2 else "put"
                if randomness.random() < lost_share:
                    answered_ns = LOST
                    effect_ns += randomness.choice([0, 50, 1_000_000])
            operation = Operation(
                kind=kind,
                key="k",
                value=f"{client}.{number}" if kind == "put" else None,
                invoked_ns=invoked_ns,
                answered_ns=answered_ns,
                client=str(client),
            )
            moments.append((effect_ns, operation))
    held: Hashable = None
    history = []
    for _, operation in sorted(moments, key=lambda moment: moment[0]):
        if operation.writes:
            held = operation.value
            history.append(operation)
        else:
            history.append(replace(operation, value=held))
    randomness.shuffle(history)
    return history


@given(history=any_history())
@example(history=[put(1, 0, 9), put(2, 1, 3), get(2, 4, 5), get(1, 2, 8)])
@settings(max_examples=2_000, deadline=None)
def test_the_search_agrees_with_trying_every_order(history: list[Operation]) -> None:
    assert is_linearizable(history) == by_trying_every_order(history)


def test_leaving_configurations_out_changes_no_verdict_where_many_write_the_same() -> None:
    randomness = random.Random(1)

    for _ in range(2_500):
        history = a_close_call(randomness)
        assert is_linearizable(history) == by_trying_every_order(history), history


@given(history=a_real_history())
@settings(deadline=None)
def test_what_a_real_register_answered_is_always_accepted(history: list[Operation]) -> None:
    assert violations(history) == []


@given(history=a_real_history(clients_max=3, operations_max=8), data=st.data())
@settings(max_examples=500, deadline=None)
def test_one_get_made_to_answer_an_older_value_is_judged_as_every_order_judges_it(
    history: list[Operation], data: st.DataObject
) -> None:
    gets = [operation for operation in history if not operation.writes]
    assume(gets)
    changed = data.draw(st.sampled_from(gets))
    older = data.draw(st.sampled_from([None, *(one.value for one in history if one.kind == "put")]))

    mutated = [replace(one, value=older) if one is changed else one for one in history]

    assert is_linearizable(mutated) == by_trying_every_order(mutated)


@given(history=a_real_history(), data=st.data())
@settings(deadline=None)
def test_one_get_made_to_answer_what_was_certainly_overwritten_is_refused(
    history: list[Operation], data: st.DataObject
) -> None:
    overwritten = [
        (seen, old)
        for seen in history
        if not seen.writes
        for old in history
        if old.kind == "put"
        and any(
            new.writes
            and old.answered_ns
            and new.answered_ns
            # Wholly after the old one, wholly before the get: no order has the old value there.
            and old.answered_ns < new.invoked_ns
            and new.answered_ns < seen.invoked_ns
            for new in history
        )
    ]
    assume(overwritten)
    seen, old = data.draw(st.sampled_from(overwritten))

    mutated = [replace(one, value=old.value) if one is seen else one for one in history]

    assert not is_linearizable(mutated)


@pytest.mark.parametrize("reads_share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("lost_share", [0.0, 0.02])
def test_thousands_of_operations_of_sixteen_clients_take_seconds(reads_share: float, lost_share: float) -> None:
    history = register_history(
        random.Random(7), clients=16, operations=8_000, lost_share=lost_share, reads_share=reads_share
    )
    last_get = max((one for one in history if not one.writes), key=lambda one: one.invoked_ns)
    spoilt = [replace(one, value="never written") if one is last_get else one for one in history]

    started_s = time.process_time()
    accepted, refused = violation(history), violation(spoilt)
    took_s = time.process_time() - started_s

    assert accepted is None
    assert refused is not None
    assert refused.operation.value == "never written"
    assert took_s < 20


def by_trying_every_order(history: Sequence[Operation]) -> bool:
    """The definition, word for word: is there an order that respects time and explains every get?"""
    answered = [float("inf") if one.answered_ns is None else one.answered_ns for one in history]

    @cache
    def explains(left: frozenset[int], held: Hashable) -> bool:
        if all(history[n].answered_ns is None for n in left):
            return True
        first_answer = min(answered[n] for n in left)
        return any(
            explains(left - {n}, history[n].value if history[n].writes else held)
            for n in left
            if history[n].invoked_ns <= first_answer
            if history[n].writes or history[n].answered_ns is None or history[n].value == held
        )

    return explains(frozenset(range(len(history))), None)


def a_close_call(randomness: random.Random) -> list[Operation]:
    """Many operations at once on few values, as a register might have answered, one get perhaps changed."""
    history = register_history(
        randomness,
        clients=randomness.randint(4, 7),
        operations=randomness.randint(8, 14),
        lost_share=randomness.choice([0.0, 0.2]),
        reads_share=randomness.choice([0.4, 0.6]),
    )
    few = [replace(one, value=one.value and str(one.value)[0] in "0246") for one in history]
    seen = [one for one in few if not one.writes]
    changed = randomness.choice(seen) if seen else None
    return [replace(one, value=randomness.choice([None, True, False])) if one is changed else one for one in few]
