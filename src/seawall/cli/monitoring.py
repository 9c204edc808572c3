"""`seawall export`: what this service promises and watches, for Prometheus, Alertmanager and Grafana."""

from pathlib import Path

import click

from seawall.monitoring.dashboard import grafana_dashboard
from seawall.monitoring.exports import Receivers, alertmanager_config, prometheus_rules
from seawall.monitoring.objectives import Objective, objectives_of
from seawall.settings import read_settings

USUAL = Receivers()


@click.group()
def export() -> None:
    """Print rules, routes and a dashboard, made from the objectives in the settings."""


@export.command(name="prometheus-rules")
@click.option(
    "--scrape-interval",
    "scrape_s",
    type=click.IntRange(1, 5),
    default=2,
    show_default=True,
    help="How often Prometheus looks, in seconds; for alerts within seconds it has to look often.",
)
def prometheus_rules_(scrape_s: int) -> None:
    """Print a rules file for Prometheus, with the alerts of this service."""
    click.echo(prometheus_rules(_promised(), scrape_s=scrape_s), nl=False)


@export.command()
@click.option(
    "--pagerduty-key-file",
    type=click.Path(path_type=Path),
    default=USUAL.pagerduty_key_file,
    show_default=True,
    help="Where Alertmanager finds the PagerDuty integration key, for pages.",
)
@click.option(
    "--slack-url-file",
    type=click.Path(path_type=Path),
    default=USUAL.slack_url_file,
    show_default=True,
    help="Where Alertmanager finds the address of a Slack webhook, for warnings.",
)
def alertmanager(pagerduty_key_file: Path, slack_url_file: Path) -> None:
    """Print a configuration for Alertmanager: pages, warnings, and one notification for each episode."""
    receivers = Receivers(pagerduty_key_file=str(pagerduty_key_file), slack_url_file=str(slack_url_file))
    click.echo(alertmanager_config(receivers), nl=False)


@export.command()
def grafana() -> None:
    """Print a dashboard for Grafana, to be imported."""
    click.echo(grafana_dashboard(_promised()), nl=False)


def _promised() -> tuple[Objective, ...]:
    return objectives_of(read_settings({}).objectives())
