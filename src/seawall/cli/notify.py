"""`seawall notify`: does who should be told of incidents hear it?"""

import asyncio
import json

import click

from seawall.cli.options import json_option
from seawall.clock import wall_s
from seawall.monitoring.notices import resolution_of, sample_notice
from seawall.monitoring.notifications import Target
from seawall.monitoring.outbox import Delivery, tell_once
from seawall.monitoring.posting import Poster
from seawall.monitoring.things import Severity
from seawall.settings import read_settings

NAMES = ("webhook", "slack", "pagerduty", "ntfy")


@click.group()
def notify() -> None:
    """Who is told of incidents: SEAWALL_NOTIFY_… in the settings."""


@notify.command()
@click.option("--target", "wanted", type=click.Choice(NAMES), default=None, help="Only this one.")
@click.option("--page", is_flag=True, help="As loud as an incident somebody has to get up for.")
@json_option
def test(wanted: str | None, *, page: bool, as_json: bool) -> None:
    """Tell each target of a test incident, once, and that it is over: exit code 1 if one did not accept both.

    No service has to run. Exit code 2 when no such target is set up. PagerDuty opens an incident and closes it.
    """
    settings = read_settings().notifications()
    targets = [target for target in settings.targets() if wanted in {None, target.name}]
    if not targets:
        which = f"{wanted} is not set up" if wanted else "nobody is set up to be told"
        click.echo(f"seawall: {which}: SEAWALL_NOTIFY_… are the settings, docs/notifications.md says how.", err=True)
        raise SystemExit(2)
    severity = Severity.PAGE if page else Severity.WARNING
    deliveries = asyncio.run(_test(targets, severity=severity, allow_private=settings.allow_private))
    if as_json:
        click.echo(json.dumps([delivery.fields() for delivery in deliveries], indent=2))
    else:
        click.echo("\n".join(map(_line, deliveries)))
    raise SystemExit(0 if all(delivery.is_sent for delivery in deliveries) else 1)


async def _test(targets: list[Target], *, severity: Severity, allow_private: bool) -> list[Delivery]:
    poster = Poster(allow_private=allow_private)
    notice = sample_notice(at_s=wall_s(), severity=severity)
    try:
        end = resolution_of(notice, at_s=wall_s(), summary="The test is over.")
        return await tell_once(targets, poster, (notice, end))
    finally:
        poster.close()


def _line(delivery: Delivery) -> str:
    answer = delivery.reason if delivery.is_sent else f"NOT SENT: {delivery.reason}"
    return f"{delivery.target:<9}  {delivery.place:<36}  {delivery.status:<8}  {delivery.took_s:6.3f} s  {answer}"
