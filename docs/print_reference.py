"""Print the reference pages from the code; with `--check`, fail if they would change.

What can be generated is generated, so that it cannot lie: settings, commands, metrics, queries,
errors and S3 operations.
"""

import argparse
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from seawall.access.callers import QUERIES as ACCESS
from seawall.cli import seawall
from seawall.database import Query
from seawall.incidents.copies import QUERIES as INCIDENTS
from seawall.monitoring.database_probe import QUERIES as MONITORING
from seawall.objects.buckets import QUERIES as OBJECTS
from seawall.objects.store import LIST_PAGE
from seawall.objects.sweeper import QUERIES as SWEEPER
from seawall.s3.errors import CODES, S3_ERRORS
from seawall.s3.operations import OPERATIONS
from seawall.service import QUERIES as SERVICE
from seawall.settings import PREFIX, Settings
from seawall.telemetry.metrics import DEFINITIONS

PAGES = Path(__file__).parent / "reference"


def settings_page() -> str:
    """Return the page of settings."""
    lines = [
        "# Settings",
        "",
        "Each can be given as an option of `seawall up` (but for secrets), in the environment, or in the TOML file "
        "named by `SEAWALL_SETTINGS_FILE`; the first that is there counts.",
        "",
        "| in the environment | in the file | default | |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory is not None else str(field.default)
        default = "" if default in {"", "**********", "None", "PydanticUndefined"} else f"`{default}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | `{name}` | {default} | {field.description} |")
    return "\n".join([*lines, ""])


def commands_page() -> str:
    """Return the page of commands: the help of each."""
    page = io.StringIO()
    page.write("# Commands\n")
    for path, command in _commands(seawall, "seawall"):
        context = click.Context(command, info_name=path, max_content_width=110, terminal_width=110)
        page.write(f"\n## {path}\n\n```\n{command.get_help(context)}\n```\n")
    return page.getvalue()


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], f"{path} {name}")


def metrics_page() -> str:
    """Return the page of metrics."""
    lines = [
        "# Metrics",
        "",
        "`/metrics` on the console port, for the fleet; each has a label `node` besides those named here.",
        "",
        "| metric | kind | labels | meaning | rises when |",
        "|---|---|---|---|---|",
    ]
    for metric in DEFINITIONS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} | {metric.rises_when} |")
    return "\n".join([*lines, ""])


def queries_page() -> str:
    """Return the page of named queries: what PostgreSQL's statistics show."""
    lines = [
        "# Queries",
        "",
        "The name stands in a comment behind the first keyword of each statement, so it is found in "
        "`pg_stat_statements`, `pg_stat_activity` and the server's log.",
        "",
        "| query | why |",
        "|---|---|",
    ]
    named: list[Mapping[str, Query]] = [
        ACCESS,
        OBJECTS,
        {"list_page": LIST_PAGE},
        SWEEPER,
        INCIDENTS,
        SERVICE,
        MONITORING,
    ]
    lines += [f"| `{query.name}` | {query.why} |" for queries in named for query in queries.values()]
    return "\n".join([*lines, ""])


def s3_page() -> str:
    """Return the page of S3 operations and errors."""
    lines = ["# S3", "", "## Operations", "", "Any other is answered `NotImplemented`.", ""]
    lines += [f"- {operation}" for operation in dict.fromkeys(OPERATIONS.values())]
    lines += ["", "## Errors", "", "| in the house | to S3 clients | status |", "|---|---|---|"]
    for error, code in S3_ERRORS.items():
        lines.append(f"| `{error.__name__}` | `{code}` | {int(CODES[code][0])} |")
    return "\n".join([*lines, ""])


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {
        "settings.md": settings_page(),
        "commands.md": commands_page(),
        "metrics.md": metrics_page(),
        "queries.md": queries_page(),
        "s3.md": s3_page(),
    }


def main() -> None:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page would change")
    check = parser.parse_args().check
    PAGES.mkdir(exist_ok=True)
    stale = []
    for name, text in pages().items():
        path = PAGES / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
    if check and stale:
        sys.exit(f"stale reference pages: {', '.join(stale)}; run `make docs`")


if __name__ == "__main__":
    main()
