"""Choose PostgreSQL's configuration for the machine it shares with the service.

Decisions only: nothing here starts, reads or writes a server. What an operator wants otherwise goes
through `alter system`, which PostgreSQL reads after our file.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

MAX_CONNECTIONS = 100


def configuration(memory_bytes: int, cores: int, *, major: int = 18) -> Mapping[str, str]:
    """Return PostgreSQL's settings for a machine of this size, by name.

    Args:
        memory_bytes: what the machine or its container may use, shared with the nodes.
        cores: processors PostgreSQL may run on.
        major: the server's major version; older ones refuse to start on a name they do not know.
    """
    shared_buffers = _between(16 * MIB, memory_bytes // 4, 8 * GIB)
    max_wal_size = _between(256 * MIB, memory_bytes // 4, 4 * GIB)
    settings = {
        # Reached through its socket only; another machine's database comes by SEAWALL_DATABASE_URL.
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        # An unreadable line of `ps` is a long night: every process says whose it is.
        "cluster_name": "seawall",
        "password_encryption": "scram-sha-256",
        # A ceiling for the whole fleet: the budget is shared out below it, so more would only cost memory.
        "max_connections": str(MAX_CONNECTIONS),
        # The manual's quarter; above 8 GiB the page cache does as well and checkpoints do not grow.
        "shared_buffers": _kib(shared_buffers),
        # What planner and page cache share in the end; it allocates nothing.
        "effective_cache_size": _kib(memory_bytes // 4 * 3),
        # Every connection may take it at once, and more than once: an eighth of memory for all of them.
        "work_mem": _kib(_between(1 * MIB, memory_bytes // 8 // MAX_CONNECTIONS, 16 * MIB)),
        "maintenance_work_mem": _kib(_between(16 * MIB, memory_bytes // 16, 1 * GIB)),
        # Each of three workers takes this much, while the service is under load.
        "autovacuum_work_mem": _kib(_between(16 * MIB, memory_bytes // 64, 256 * MIB)),
        # Fewer page-table misses where the machine has them set aside, no complaint where it has not.
        "huge_pages": "try",
        # An acknowledged write survives a power cut. Said aloud, because everything rests on it.
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        # Rare checkpoints write each page image less often; small machines get a shorter crash recovery.
        "max_wal_size": _kib(max_wal_size),
        "min_wal_size": _kib(max_wal_size // 4),
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        # Page images after a checkpoint are most of the log, and mostly air. pglz: this build has no lz4.
        "wal_compression": "on",
        # A forgotten replication slot loses its replica, not the disk.
        "max_slot_wal_keep_size": _kib(max_wal_size),
        # Solid-state disks: a random page costs what the next page costs.
        "random_page_cost": "1.1",
        "effective_io_concurrency": "200",
        # Queries here last microseconds; compiling one takes milliseconds, gathering workers too.
        "jit": "off",
        "max_parallel_workers_per_gather": "0" if cores <= 2 else "2",
        "max_worker_processes": str(max(8, cores)),
        # current_objects is inserted into and updated all day: vacuum by small helpings, before bloat shows,
        # and set the visibility map early, or index-only scans are not.
        "autovacuum_naptime": "15s",
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_vacuum_insert_scale_factor": "0.05",
        "autovacuum_analyze_scale_factor": "0.02",
        "autovacuum_vacuum_cost_limit": "2000",
        # A transaction forgotten open holds locks and stops vacuum; nothing of ours waits this long inside one.
        "idle_in_transaction_session_timeout": "30s",
        # A query whose client has died stops, instead of finishing for nobody.
        "client_connection_check_interval": "5s",
        # What check-up and diagnosis read.
        "shared_preload_libraries": "pg_stat_statements,auto_explain",
        "pg_stat_statements.max": "5000",
        # Utility statements may hold secrets (`alter role … password`) and are not what is slow.
        "pg_stat_statements.track_utility": "off",
        "track_io_timing": "on",
        "track_functions": "pl",
        "auto_explain.log_min_duration": "1s",
        "log_lock_waits": "on",
        "deadlock_timeout": "1s",
        "log_autovacuum_min_duration": "1min",
        "log_temp_files": "16MB",
        # When, which process, how far into its log, who, and which part of the service.
        "log_line_prefix": "%m [%p] %l %q%u@%d %a ",
        # Parameters are people's keys and bytes: they stay out of the log.
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
        "auto_explain.log_parameter_max_length": "0",
        # One language and one time in the log, whatever the operator's shell says.
        "lc_messages": "C",
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
    if major >= 16:
        # For the keeper and the service, when somebody else's clients have taken all the rest.
        settings["reserved_connections"] = "5"
    return settings


def as_file(settings: Mapping[str, str]) -> str:
    r"""Return the settings in the format of `postgresql.conf`.

    >>> as_file({"log_line_prefix": "it's "})
    "log_line_prefix = 'it''s '\n"
    """
    return "".join(f"{name} = '{_quoted(value)}'\n" for name, value in settings.items())


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory this process may use: the machine's, or less when its control groups say so.

    Args:
        root: where `proc` and `sys` are mounted.
    """
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([installed, *_control_group_limits(root)])


def usable_cores() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0))


def _control_group_limits(root: Path) -> Iterator[int]:
    """Yield every memory limit above this process, in version 2 and version 1 of control groups.

    A limit of any ancestor binds, so each is asked. In a container the path of the host is not
    there, but the mount itself is the container's group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = mount / path.lstrip("/")
        for directory in (group, *group.parents):
            with suppress(OSError, ValueError):  # not mounted here, or "max"
                yield int((directory / name).read_text())
            if directory == mount:
                break


def _between(least: int, wanted: int, most: int) -> int:
    return max(least, min(wanted, most))


def _kib(size_bytes: int) -> str:
    return f"{size_bytes // KIB}kB"


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
