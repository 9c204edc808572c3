"""Every choice an operator has, read once, frozen.

From a TOML file (`SEAWALL_SETTINGS_FILE`), from the environment (`SEAWALL_` and the name), and from
the options of `seawall up`: the later ones win. Each package has its own small settings class; here
they are put together.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from seawall.admission import GateSettings
from seawall.blobs import BlobSettings
from seawall.database import DatabaseSettings, Endpoint
from seawall.database.leases import NODES_MAX, LeaseSettings
from seawall.edge import HttpSettings
from seawall.errors import Misconfigured
from seawall.monitoring.mitigation import MitigationSettings
from seawall.monitoring.notifications import PAGERDUTY_URL, NotificationSettings
from seawall.monitoring.objectives import ObjectiveSettings
from seawall.objects import ObjectSettings
from seawall.s3 import S3Settings
from seawall.telemetry.traces import TraceSettings

PREFIX = "SEAWALL_"
FILE_VARIABLE = "SEAWALL_SETTINGS_FILE"
MIB = 1024 * 1024

# As it was: longer than anybody waits.
UNPROTECTED_PATIENCE_S = 60.0

Port = Annotated[int, Field(ge=0, le=65535)]


def default_data_dir() -> Path:
    """Return where data is kept unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/seawall")
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "seawall"


class Settings(BaseSettings):
    """What can be chosen. Sizes end in `_bytes`, times in `_s`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Where everything is kept. Default: `/var/lib/seawall` for root, else `$XDG_DATA_HOME/seawall`.",
    )
    host: str = Field("127.0.0.1", description="The address the S3 door listens on.")
    s3_port: Port = Field(9000, description="The port of the S3 door; 0 picks a free one.")
    console_port: Port = Field(
        9002,
        description="The port of the fleet's `/healthz`, `/readyz` and `/metrics`, on `console_host`; 0 picks one.",
    )
    console_host: str = Field("127.0.0.1", description="The address of the console port. It has no authentication yet.")
    health_port: Port = Field(
        0, description="The port of a node's own `/healthz`, `/readyz` and `/metrics`; 0: none (as under `up`)."
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        description="`postgresql://…` of a PostgreSQL ≥ 15; empty: an embedded one in `data_dir`. Several hosts may be "
        "named (`host1:5432,host2:5432`): a primary and its streaming replicas, in any order.",
    )
    database_direct_url: SecretStr = Field(
        SecretStr(""),
        description="Where `database_url` names a PgBouncer: the servers themselves, in the same order, for leases, "
        "checks and migrations.",
    )
    root_access_key: str = Field("", description="Access key of the root account at first start; made up when empty.")
    root_secret_key: SecretStr = Field(
        SecretStr(""), description="Secret key of the root account at first start; made up when empty."
    )
    web_port: Port = Field(9001, description="The port of the web app. Nothing listens there yet.")
    nodes: str = Field(
        "1",
        pattern=r"^[1-9][0-9]?(:[1-9][0-9]?)?$",
        description="How many nodes `up` runs; of a range like `1:8`, the lower end for now. One is best on two cores.",
    )
    region: str = Field(
        "us-east-1", description="The region the service says it is in. Signatures of any are accepted."
    )
    domains: str = Field(
        "", description="Host names, comma separated, under which buckets are addressed as `bucket.host`."
    )
    connections_max: int = Field(16_000, ge=1, description="Client connections a node holds at once.")
    connections_per_client_max: int = Field(
        8_000, ge=1, description="Client connections a node holds at once from one address; a proxy is one address."
    )
    queue_s: float = Field(
        0.07,
        gt=0,
        description="How long the queue for the database, or for the processor, may be before less is let in.",
    )
    refusal_delay_s: float = Field(
        0.5,
        ge=0,
        le=5,
        description="How long a request that is turned away waits for its answer, at the most; who comes again at once "
        "is slowed down by it.",
    )
    idle_s: float = Field(75.0, gt=0, description="How long a connection may say nothing between requests.")
    head_s: float = Field(10.0, gt=0, description="How long the head of a request may take to arrive.")
    stall_s: float = Field(30.0, gt=0, description="How long a body may make no progress, in either direction.")
    rate_min_bytes_per_s: float = Field(1024.0, gt=0, description="The least rate of a body, after `stall_s`.")
    answer_s: float = Field(600.0, gt=0, description="How long the service may take to begin or go on with an answer.")
    drain_s: float = Field(30.0, ge=0, description="How long requests under way may take to end when a node stops.")
    body_memory_bytes: int = Field(
        96 * MIB, ge=MIB, description="Bytes of request bodies a node holds before it makes clients wait."
    )
    inline_max_bytes: int = Field(2048, ge=0, le=7168, description="Bodies up to this size are kept in PostgreSQL.")
    segment_blob_max_bytes: int = Field(
        MIB, ge=4096, le=MIB, description="Bodies up to this size share files; larger ones get their own."
    )
    segment_size_bytes: int = Field(256 * MIB, ge=MIB, description="How large a shared file grows.")
    reserve_bytes: int = Field(1024 * MIB, ge=0, description="Free disk space below which writes are refused.")
    database_read_lanes: int = Field(2, ge=1, le=16, description="Connections of a node for batched reads.")
    database_write_lanes: int = Field(2, ge=1, le=16, description="Connections of a node for batched writes.")
    database_spare_connections: int = Field(2, ge=1, le=64, description="Connections of a node for everything else.")
    database_patience_s: float = Field(5.0, gt=0, description="How long a request may wait for the database.")
    database_stale_reads_s: float = Field(
        0.0,
        ge=0,
        description="How old reads may be while no server of the database takes writes, with a header that says so; "
        "0: they fail then.",
    )
    postgres_binaries: Path | None = Field(
        None, description="A `bin` directory of PostgreSQL to use for the embedded one."
    )
    sweep_interval_s: float = Field(60.0, gt=0, description="How often garbage is looked for.")
    garbage_grace_s: float = Field(
        900.0, ge=0, description="How long the bytes of a deleted object stay, for readers that have begun."
    )
    drill_hold_s: float = Field(
        0.0, ge=0, description="Drills only: each request for an object first holds a database connection for so long."
    )
    drill_connections_max: int = Field(
        0, ge=0, description="Drills only: `max_connections` of the embedded PostgreSQL; 0: as usual."
    )
    drill_unprotected: bool = Field(
        default=False,
        description="Drills only: a connection for each request, no admission and no deadlines, to see what happens.",
    )
    drill_disk: Path | None = Field(
        None, description="Drills only: a file that says whether the disk of the blobs is slow or full."
    )
    objective_availability: float = Field(
        0.999,
        ge=0.95,
        lt=1,
        description="The share of requests that must neither fail nor be refused, over 30 days.",
    )
    objective_latency: float = Field(
        0.99, ge=0.95, lt=1, description="The share of served reads and writes that must be in time, over 30 days."
    )
    objective_read_s: float = Field(
        0.5, description="Until when a read is in time; a bound of the histogram of durations."
    )
    objective_write_s: float = Field(2.5, description="Until when a write is in time; likewise.")
    mitigate: bool = Field(
        default=True,
        description="Whether the service may do something by itself in an incident: stop a session of its own role "
        "that is past its limit, hold an account that floods, leave out a late replica.",
    )
    mitigate_foreign: bool = Field(
        default=False, description="Whether it may also stop sessions of other roles that are past their limit."
    )
    notify_webhook_url: SecretStr = Field(
        SecretStr(""), description="Where incidents are told as Alertmanager tells its webhooks (version 4)."
    )
    notify_webhook_token: SecretStr = Field(
        SecretStr(""), description="Sent there as `Authorization: Bearer`, if it wants one."
    )
    notify_slack_url: SecretStr = Field(SecretStr(""), description="An incoming webhook of Slack.")
    notify_pagerduty_key: SecretStr = Field(
        SecretStr(""), description="The integration key of a service in PagerDuty (Events API V2)."
    )
    notify_pagerduty_url: str = Field(
        PAGERDUTY_URL, description="PagerDuty's own; in its EU region `https://events.eu.pagerduty.com/v2/enqueue`."
    )
    notify_ntfy_url: SecretStr = Field(
        SecretStr(""), description="A server and topic of ntfy: `https://ntfy.sh/my-topic`."
    )
    notify_ntfy_token: SecretStr = Field(SecretStr(""), description="An access token of that server, if it wants one.")
    notify_allow_private: bool = Field(
        default=False,
        description="Whether this machine and private networks may be told. Addresses of cloud metadata never are.",
    )
    traces_url: str = Field(
        "",
        description="Where traces go: an OTLP/HTTP receiver such as `http://127.0.0.1:4318/v1/traces`; empty: nowhere. "
        "Needs the extra `seawall[otel]`.",
    )
    traces_share: float = Field(
        0.01, ge=0, le=1, description="The share of requests that is traced, whatever clients ask for."
    )
    traces_headers: SecretStr = Field(
        SecretStr(""),
        description="Sent there along: `name=value,name=value`, with values percent-encoded (`Bearer%20…`).",
    )
    request_log: bool = Field(default=True, description="Whether each request gets a line in `log/requests-*.jsonl`.")

    @field_validator("root_secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < 8:
            raise ValueError("a secret key has at least 8 characters")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options first, then the environment, then the file."""
        path = os.environ.get(FILE_VARIABLE)
        if path is None:
            return init_settings, env_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(path))

    def database(self) -> DatabaseSettings:
        """Return what a node needs to know about its connections."""
        return DatabaseSettings(
            read_lanes=self.database_read_lanes,
            write_lanes=self.database_write_lanes,
            spare_connections=self.database_spare_connections,
            patience_s=UNPROTECTED_PATIENCE_S if self.drill_unprotected else self.database_patience_s,
            stale_reads_s=self.database_stale_reads_s,
            pooled=not self.drill_unprotected,
        )

    def gate(self) -> GateSettings:
        """Return what the gate needs to know."""
        return GateSettings(refusal_delay_s=self.refusal_delay_s)

    def blobs(self) -> BlobSettings:
        """Return what the blob store needs to know."""
        return BlobSettings(
            root=self.data_dir / "blobs",
            segment_blob_max_bytes=self.segment_blob_max_bytes,
            segment_size_bytes=self.segment_size_bytes,
            reserve_bytes=self.reserve_bytes,
        )

    def http(self) -> HttpSettings:
        """Return what a door needs to know."""
        return HttpSettings(
            idle_s=self.idle_s,
            head_s=self.head_s,
            stall_s=self.stall_s,
            rate_min_bytes_per_s=self.rate_min_bytes_per_s,
            connections_max=self.connections_max,
            connections_per_client_max=self.connections_per_client_max,
            body_memory_bytes=self.body_memory_bytes,
            answer_s=self.answer_s,
            drain_s=self.drain_s,
        )

    def s3(self) -> S3Settings:
        """Return what the S3 door needs to know."""
        domains = tuple(domain.strip().lower() for domain in self.domains.split(",") if domain.strip())
        if self.drill_unprotected:
            return S3Settings(region=self.region, domains=domains, first_byte_s=UNPROTECTED_PATIENCE_S)
        return S3Settings(region=self.region, domains=domains)

    def objects(self) -> ObjectSettings:
        """Return what the object store needs to know."""
        return ObjectSettings(inline_max_bytes=self.inline_max_bytes)

    def objectives(self) -> ObjectiveSettings:
        """Return what is promised."""
        return ObjectiveSettings(
            availability=self.objective_availability,
            latency=self.objective_latency,
            read_s=self.objective_read_s,
            write_s=self.objective_write_s,
        )

    def mitigation(self) -> MitigationSettings:
        """Return what may be done by itself."""
        return MitigationSettings(mitigate=self.mitigate, mitigate_foreign=self.mitigate_foreign)

    def notifications(self) -> NotificationSettings:
        """Return who is told of incidents.

        Raises:
            Misconfigured: one of them cannot work.
        """
        return NotificationSettings(
            webhook_url=self.notify_webhook_url.get_secret_value(),
            webhook_token=self.notify_webhook_token.get_secret_value(),
            slack_url=self.notify_slack_url.get_secret_value(),
            pagerduty_key=self.notify_pagerduty_key.get_secret_value(),
            pagerduty_url=self.notify_pagerduty_url,
            ntfy_url=self.notify_ntfy_url.get_secret_value(),
            ntfy_token=self.notify_ntfy_token.get_secret_value(),
            allow_private=self.notify_allow_private,
        )

    def traces(self) -> TraceSettings:
        """Return where traces go.

        Raises:
            Misconfigured: they cannot go there, or what sends them is not installed.
        """
        return TraceSettings(
            url=self.traces_url, share=self.traces_share, headers=self.traces_headers.get_secret_value()
        )

    def external_database(self) -> tuple[Endpoint, ...]:
        """Return the servers of the database the operator named; none where the embedded one is used."""
        url = self.database_url.get_secret_value()
        return Endpoint.parse(url) if url else ()

    def direct_database(self) -> tuple[Endpoint, ...]:
        """Return the servers themselves, where the operator named poolers before them; else none.

        Raises:
            Misconfigured: they are not as many.
        """
        url = self.database_direct_url.get_secret_value()
        direct = Endpoint.parse(url) if url else ()
        if direct and len(direct) != len(self.external_database()):
            raise Misconfigured("SEAWALL_DATABASE_DIRECT_URL names other servers than SEAWALL_DATABASE_URL.")
        return direct

    def nodes_min(self) -> int:
        """Return how many nodes there are at least."""
        return int(self.nodes.partition(":")[0])

    def lease(self) -> LeaseSettings:
        """Return what a node needs to know about its share of the database's connections."""
        own = self.database().connections
        return LeaseSettings(
            # One more than there should be: a node is replaced by the next before it is gone.
            nodes_max=max(NODES_MAX, int(self.nodes.rpartition(":")[2]) + 1),
            # The keeper's, and those of a command beside it.
            keeper_connections=2 * own,
        )

    def socket_path(self) -> Path:
        """Return where the keeper listens for nodes and commands."""
        return self.data_dir / "run" / "keeper.sock"

    def as_environment(self) -> dict[str, str]:
        """Return the environment that gives a node the same settings, but for the root's secret and who is told."""
        unneeded = {name for name in type(self).model_fields if name.startswith("notify_")}
        chosen = self.model_dump(exclude={"root_access_key", "root_secret_key", *unneeded}, exclude_none=True)
        for name in ("database_url", "database_direct_url", "traces_headers"):
            chosen[name] = getattr(self, name).get_secret_value()
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in chosen.items()}


def read_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings.

    Raises:
        Misconfigured: one makes no sense.
    """
    named = os.environ.get(FILE_VARIABLE)
    if named is not None and not Path(named).is_file():
        raise Misconfigured(f"There is no settings file {named}.")
    try:
        return Settings(**{name: value for name, value in (overrides or {}).items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, line['loc']))}: {line['msg']}" for line in error.errors())
        raise Misconfigured(f"The settings cannot be used: {problems}.") from error
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Misconfigured(f"The settings file {named} cannot be read: {error}.") from error


def unknown_variables() -> list[str]:
    """Return variables that look like settings and are none: maybe misspelled.

    They are no error: Kubernetes makes such variables for a service of our name.
    """
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {FILE_VARIABLE, "SEAWALL_TEST_BUDGET"}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
