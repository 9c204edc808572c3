import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.incidents import kit
from tests.incidents.kit import Past

from seawall.cli.incidents import incidents
from seawall.errors import Missing, NotRunning
from seawall.incidents.desk import IncidentDesk
from seawall.incidents.record import noted
from seawall.incidents.store import IncidentFiles
from seawall.settings import read_settings
from seawall.telemetry.link import Link


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with one incident in it, and nothing that runs."""
    monkeypatch.setenv("SEAWALL_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("SUDO_USER", raising=False)
    files = IncidentFiles(tmp_path / "incidents")
    incident, rows = kit.whole()
    files.save(incident)
    files.add_points(incident.id, rows)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(incidents, list(words), catch_exceptions=True)


async def run_beside_a_service(data_dir: Path, *words: str) -> Result:
    """Run a command while a keeper answers."""
    past = Past()
    desk = IncidentDesk(
        data_dir / "incidents", tell=lambda *_, **__: None, series=past.series, users_between=past.users_between
    )
    await desk.start(lambda _since_s: [])
    async with Link(read_settings().socket_path(), desk.answer):
        return await asyncio.to_thread(run, *words)


def test_without_a_service_they_are_read_from_the_files_and_that_is_said(data_dir: Path) -> None:
    shown = run("show", "latest")

    assert shown.exit_code == 0
    assert "2026-11-24-1  resolved  page  Files could not be read" in shown.stdout
    assert "812 of 2,950 users (28 %)" in shown.stdout
    assert f"This is from the files in {data_dir}/incidents." in shown.stderr
    assert "No service is running" in shown.stderr


def test_the_list_has_a_line_each() -> None:
    listed = run("list")

    assert listed.stdout.startswith("2026-11-24-1   resolved 21:03:02  31 s         28 % of users  Files could not")
    assert listed.stdout.count("\n") == 1


def test_json_is_json_and_nothing_else(tmp_path: Path) -> None:
    assert [one["id"] for one in json.loads(run("list", "--json").stdout)] == ["2026-11-24-1"]
    assert json.loads(run("show", "latest", "--json").stdout)["impact"]["users_failed"] == 812
    assert json.loads(run("post-mortem", "latest", "--json").stdout)["text"].startswith("# Files could not be read")
    out = tmp_path / "page.html"
    written = run("post-mortem", "latest", "--format", "html", "--out", str(out), "--json")
    assert json.loads(written.stdout) == {"format": "html", "out": str(out)}
    assert out.read_text().startswith("<!doctype html>")


def test_the_post_mortem_is_printed_or_written(tmp_path: Path) -> None:
    out = tmp_path / "post-mortem.md"

    printed = run("post-mortem", "2026-11-24-1")
    written = run("post-mortem", "2026-11-24-1", "--out", str(out))

    assert "## Root cause and trigger" in printed.stdout
    assert written.stdout == f"written: {out}\n"
    assert out.read_text().partition("---\n\n_Drafted")[0] == printed.stdout.partition("---\n\n_Drafted")[0]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    refused = run("post-mortem", "latest", "--out", str(tmp_path / "nowhere" / "x.md"))

    assert refused.exit_code == 1
    assert "cannot be written: No such file or directory." in refused.stderr


@pytest.mark.parametrize("words", [("note", "latest", "text"), ("acknowledge", "latest")])
def test_what_changes_something_needs_the_service(words: tuple[str, ...]) -> None:
    refused = run(*words)

    # `seawall` makes it one line, and exit code 2.
    assert isinstance(refused.exception, NotRunning)
    assert IncidentFiles(read_settings().data_dir / "incidents").find("latest").notes == ()


def test_one_that_is_not_there_is_said_not_to_be() -> None:
    refused = run("show", "2020-01-01-1")

    assert isinstance(refused.exception, Missing)
    assert str(refused.exception) == "There is no incident 2020-01-01-1."


def test_where_there_never_was_a_service_there_is_nothing_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_DATA_DIR", str(tmp_path / "other"))

    assert isinstance(run("list").exception, NotRunning)


async def test_the_service_is_asked_where_one_runs(data_dir: Path) -> None:
    for words in (["list"], ["show", "latest"], ["post-mortem", "latest"]):
        answered = await run_beside_a_service(data_dir, *words)
        assert answered.exit_code == 0, answered.exception
        assert answered.stderr == ""
        assert "Files could not be read" in answered.stdout


async def test_notes_and_acknowledgements_reach_the_files(data_dir: Path) -> None:
    noted = await run_beside_a_service(data_dir, "note", "latest", "It was the nightly report.", "--by", "mara")
    taken = await run_beside_a_service(data_dir, "acknowledge", "latest", "--by", "mara")

    assert noted.stdout == "noted in 2026-11-24-1\n"
    assert taken.stdout == "2026-11-24-1 is taken by mara\n"
    incident = IncidentFiles(data_dir / "incidents").find("latest")
    assert [note.text for note in incident.notes] == ["It was the nightly report."]
    assert incident.acknowledged is not None


async def test_what_the_service_declines_is_said(data_dir: Path) -> None:
    refused = await run_beside_a_service(data_dir, "note", "2020-01-01-1", "text")

    assert str(refused.exception) == "There is no incident 2020-01-01-1."


def test_a_note_cannot_do_anything_to_the_terminal(data_dir: Path) -> None:
    incident, _ = kit.whole()
    IncidentFiles(data_dir / "incidents").save(noted(incident, kit.note("all \x1b]0;well\x07\x9b2J is well")))

    for words in (("show", "latest"), ("post-mortem", "latest")):
        shown = run(*words).stdout
        assert "is well" in shown
        assert not {"\x1b", "\x07", "\x9b"} & {*shown}
