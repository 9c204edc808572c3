"""A keeper that is started anew goes on with the same episode, and does without what it cannot read."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
from tests.monitoring.scenarios import book, point

from seawall.clock import monotonic_s, wall_s
from seawall.monitoring.alert_memory import keep, resume
from seawall.telemetry.points import Point, rolled


class Kept:
    """What the fleet kept. State: the points of seconds, until now."""

    def __init__(self, points: Sequence[Point], *, fails: bool = False) -> None:
        self._points = points
        self._began_s = int(wall_s()) - len(points)
        self._fails = fails

    def recent(self, seconds: int) -> list[tuple[float, Point]]:
        return [(float(self._began_s + at), self._points[at]) for at in range(len(self._points))][-seconds:]

    async def series(
        self, since_s: float, until_s: float, points_max: int, *, names: Collection[str] | None = None
    ) -> list[tuple[float, dict[str, float]]]:
        if self._fails:
            raise TimeoutError
        step_s = 10 if until_s - since_s <= 86400 else 60
        assert points_max >= (until_s - since_s) / step_s
        return [
            (self._began_s + at, rolled(self._points[at : at + step_s])) for at in range(0, len(self._points), step_s)
        ]


DOWN = [*[point(requests=50)] * 100, *[point(requests=50, failed=50)] * 10]


async def test_the_episode_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run" / "alerts.json"
    before = book()
    for second, now in enumerate(DOWN):
        before.observe(wall_s() - len(DOWN) + second, now, float(second))
    await keep(before, path)

    after = book()
    await resume(after, path, Kept(DOWN))

    assert after.episode is not None
    assert after.episode == before.episode
    assert after.active == before.active
    assert after.observe(wall_s(), DOWN[-1], monotonic_s()) == []


@pytest.mark.parametrize("written", [None, "", "{", "[]", "{}", '{"episode": {"name": 1}}'])
async def test_what_cannot_be_read_is_done_without(tmp_path: Path, written: str | None) -> None:
    path = tmp_path / "alerts.json"
    if written is not None:
        path.write_text(written)

    after = book()
    await resume(after, path, Kept(DOWN, fails=True))

    # What was a moment ago is known: it is told at once.
    [event] = after.observe(wall_s(), DOWN[-1], monotonic_s())
    assert event.wakes
