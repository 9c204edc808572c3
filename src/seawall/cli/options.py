"""The settings as options of a command, made from the settings themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from seawall.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

# A secret on a command line can be read by everybody on the machine.
NOT_OPTIONS = frozenset(
    {
        "root_secret_key",
        "database_url",
        "notify_webhook_url",
        "notify_webhook_token",
        "notify_slack_url",
        "notify_pagerduty_key",
        "notify_ntfy_url",
        "notify_ntfy_token",
        "traces_headers",
    }
)


def setting_options(command: Command) -> Command:
    """Give a command one option for each setting; None means that the option was not used."""
    for name, field in reversed(Settings.model_fields.items()):
        if name in NOT_OPTIONS:
            continue
        flag = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            flag += f"/--no-{name.replace('_', '-')}"
        kind = next((simple for simple in (bool, int, float) if field.annotation is simple), str)
        help_text = field.description or ""
        if field.default not in (None, "", Ellipsis) and field.default_factory is None:
            help_text += f"  [default: {field.default}]"
        command = click.option(flag, name, default=None, type=kind, help=help_text)(command)
    return command


def data_dir_option(command: Command) -> Command:
    """Give a command the one option that says which service is meant."""
    return click.option(
        "--data-dir", type=click.Path(path_type=Path), default=None, help="The data directory of the service."
    )(command)


def json_option(command: Command) -> Command:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)
