"""`seawall user`: the accounts of the running service."""

import asyncio
import json
from typing import Any

import click

from seawall.cli.options import data_dir_option, json_option
from seawall.settings import read_settings
from seawall.telemetry.link import ask


@click.group()
def user() -> None:
    """Add, list and remove accounts, and give them new keys."""


@user.command()
@click.argument("name")
@click.option("--id", "canonical_id", default="", help="The account's id in S3's answers; made up when left out.")
@click.option("--display-name", default="", help="Defaults to the name.")
@click.option("--email", default="")
@click.option("--access-key", default="", help="Made up when left out.")
@click.option("--secret-key", default="", help="Made up when left out. Others on this machine can see options.")
@click.option("--admin", is_flag=True, help="May do everything in every bucket.")
@click.option("--background", is_flag=True, help="Nothing it asks for is urgent: backups, mirrors, batch jobs.")
@data_dir_option
@json_option
def add(data_dir: str | None, *, as_json: bool, admin: bool, background: bool, **account: str) -> None:
    """Add an account and print its keys, this once."""
    flags = {"is_admin": admin, "is_background": background}
    _print_keys(_ask(data_dir, "user.add", account={**account, **flags}), as_json=as_json)


@user.command(name="list")
@data_dir_option
@json_option
def list_(data_dir: str | None, *, as_json: bool) -> None:
    """List the accounts."""
    accounts = _ask(data_dir, "user.list")
    if as_json:
        click.echo(json.dumps(accounts, indent=2))
        return
    for account in accounts:
        keys = ", ".join(account["access_keys"]) or "no access key"
        kind = "admin" if account["admin"] else "background" if account["background"] else ""
        click.echo(f"{account['name']:<24} {kind:<10} {keys}")


@user.command()
@click.argument("name")
@data_dir_option
def remove(name: str, data_dir: str | None) -> None:
    """Remove an account that owns no buckets, and its keys."""
    _ask(data_dir, "user.remove", name=name)
    click.echo(f"removed {name}")


@user.command()
@click.argument("name")
@data_dir_option
@json_option
def key(name: str, data_dir: str | None, *, as_json: bool) -> None:
    """Give an account a new key in place of those it has, which stop working within a second."""
    _print_keys(_ask(data_dir, "user.key", name=name), as_json=as_json)


def _ask(data_dir: str | None, question: str, **details: Any) -> Any:
    return asyncio.run(ask(read_settings({"data_dir": data_dir}).socket_path(), question, **details))


def _print_keys(pair: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(pair, indent=2))
    else:
        click.echo(f"access key  {pair['access_key']}")
        click.echo(f"secret key  {pair['secret_key']}")
