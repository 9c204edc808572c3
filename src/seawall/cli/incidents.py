"""`seawall incidents`: what went wrong, as it is known; readable while nothing runs."""

import asyncio
import getpass
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from seawall.cli.options import data_dir_option, json_option
from seawall.clock import wall_s
from seawall.errors import NotRunning
from seawall.incidents.desk import FORMS, post_mortem
from seawall.incidents.record import Incident
from seawall.incidents.store import IncidentFiles
from seawall.incidents.summary import in_short, one_screen
from seawall.incidents.wording import duration, percent
from seawall.settings import read_settings
from seawall.telemetry.link import ask
from seawall.telemetry.log import printable

WIDTH = (72, 132)
"""Columns of a terminal that are made use of, at the least and at the most."""


@click.group()
def incidents() -> None:
    """List and show incidents, draft their post-mortems, add notes.

    The running service is asked; when none runs, `list`, `show` and `post-mortem` read its files, and say so. ID is an
    incident's name, as in 2026-11-24-1, or `latest`.
    """


@incidents.command(name="list")
@data_dir_option
@json_option
def list_(data_dir: str | None, *, as_json: bool) -> None:
    """List all incidents, the latest first."""
    found = _ask_or(data_dir, "incidents.list", lambda files: [in_short(incident) for incident in files.all()])
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("There was no incident yet.")
    for one in () if as_json else found:
        began = datetime.fromtimestamp(one["began_s"], UTC).strftime("%H:%M:%S")
        lasted = "goes on" if one["recovered_s"] is None else duration(one["recovered_s"] - one["began_s"])
        share = f"{percent(one['users_failed'] / one['users_seen'])} of users" if one["users_seen"] else ""
        click.echo(printable(f"{one['id']:<14} {one['status']:<8} {began}  {lasted:<12} {share:<14} {one['title']}"))


@incidents.command()
@click.argument("incident_id", metavar="ID")
@data_dir_option
@json_option
def show(incident_id: str, data_dir: str | None, *, as_json: bool) -> None:
    """Show an incident on one screen: whom it hits, the suspect, what is ruled out, what happened."""
    found = _ask_or(data_dir, "incidents.show", lambda files: files.find(incident_id).as_json(), id=incident_id)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    incident = Incident.from_json(found)
    width = min(WIDTH[1], max(WIDTH[0], shutil.get_terminal_size((100, 50)).columns))
    lines = one_screen(incident, _files(data_dir).points(incident.id), now_s=wall_s(), width=width)
    click.echo(printable("\n".join(lines)))


@incidents.command(name="post-mortem")
@click.argument("incident_id", metavar="ID")
@click.option("--format", "form", type=click.Choice(FORMS), default=FORMS[0], show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write; else it is printed.")
@data_dir_option
@json_option
def post_mortem_(incident_id: str, form: str, out: Path | None, data_dir: str | None, *, as_json: bool) -> None:
    """Draft the post-mortem of an incident, as Markdown or as a page that needs nothing else (`--format html`)."""

    def from_files(files: IncidentFiles) -> str:
        incident = files.find(incident_id)
        return post_mortem(incident, files.points(incident.id), form, now_s=wall_s())

    text = _ask_or(data_dir, "incidents.post-mortem", from_files, id=incident_id, format=form)
    if out is not None:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{out} cannot be written: {error.strerror}.") from error
    if as_json:
        click.echo(json.dumps({"format": form, "text": text} if out is None else {"format": form, "out": str(out)}))
    else:
        click.echo(printable(text.rstrip("\n")) if out is None else f"written: {out}")


@incidents.command()
@click.argument("incident_id", metavar="ID")
@click.argument("text")
@click.option("--by", default=None, help="Who says so.  [default: who is logged in]")
@data_dir_option
@json_option
def note(incident_id: str, text: str, by: str | None, data_dir: str | None, *, as_json: bool) -> None:
    """Add a note to an incident; it becomes part of the timeline."""
    found = _ask(data_dir, "incidents.note", id=incident_id, who=by or _who(), text=text)
    click.echo(json.dumps(found, indent=2) if as_json else f"noted in {found['id']}")


@incidents.command()
@click.argument("incident_id", metavar="ID")
@click.option("--by", default=None, help="Who takes it.  [default: who is logged in]")
@data_dir_option
@json_option
def acknowledge(incident_id: str, by: str | None, data_dir: str | None, *, as_json: bool) -> None:
    """Say that you take an incident up; who was first stays."""
    found = _ask(data_dir, "incidents.acknowledge", id=incident_id, who=by or _who())
    click.echo(json.dumps(found, indent=2) if as_json else f"{found['id']} is taken by {found['acknowledged']['who']}")


def _ask(data_dir: str | None, question: str, **details: Any) -> Any:
    return asyncio.run(ask(read_settings({"data_dir": data_dir}).socket_path(), question, **details))


def _ask_or(data_dir: str | None, question: str, otherwise: Any, **details: Any) -> Any:
    """Ask the service; when none answers, read what it wrote, and say so where it does not mix with the answer."""
    try:
        return _ask(data_dir, question, **details)
    except NotRunning as error:
        files = _files(data_dir)
        if not files.directory.is_dir():
            raise
        click.echo(f"seawall: {error} This is from the files in {files.directory}.", err=True)
        return otherwise(files)


def _files(data_dir: str | None) -> IncidentFiles:
    return IncidentFiles(read_settings({"data_dir": data_dir}).data_dir / "incidents")


def _who() -> str:
    # Under sudo, who typed it.
    return os.environ.get("SUDO_USER") or getpass.getuser()
