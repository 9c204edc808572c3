"""What `/proc` says is read as it is written, and what it does not say is left out."""

import socket
from pathlib import Path

import pytest

from seawall.clock import wall_s
from seawall.telemetry.host import (
    Host,
    accept_queue,
    available_bytes,
    grown,
    machine_ticks,
    net_counters,
    open_descriptors,
    resident_bytes,
    run_delay_s,
    started_s,
)
from seawall.telemetry.points import BY_NAME

STAT = "cpu  100 20 30 800 40 5 5 60 7 0\ncpu0 50 10 15 400 20 2 3 30 3 0\nintr 1 2\nbtime 1700000000\n"
SNMP = (
    "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoAlgorithm MaxConn RetransSegs InErrs\nTcp: 1 -1 321 0\n"
    "Udp: InDatagrams\nUdp: 5\n"
)
NETSTAT = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 4 5\nIpExt: InOctets\nIpExt: 999\n"
MEMINFO = "MemTotal:        4000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n"


def a_proc(root: Path, *, without: str = "") -> Path:
    files = {"stat": STAT, "meminfo": MEMINFO, "net/snmp": SNMP, "net/netstat": NETSTAT, "self/statm": "900 300 200"}
    for name, text in files.items():
        if name != without:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


def test_the_machines_processors() -> None:
    assert machine_ticks(STAT) == (160, 60, 1060)


def test_run_delay_is_the_second_number_in_nanoseconds() -> None:
    assert run_delay_s("36500000000 2500000000 912") == 2.5


def test_memory() -> None:
    assert resident_bytes("900 300 200") % 300 == 0
    assert available_bytes(MEMINFO) == 2_000_000 * 1024
    assert available_bytes("MemTotal: 1 kB\n") is None


def test_counters_of_the_network() -> None:
    assert net_counters(SNMP)["Tcp.RetransSegs"] == 321
    assert net_counters(SNMP)["Tcp.MaxConn"] == -1
    assert net_counters(NETSTAT)["TcpExt.ListenOverflows"] == 4


def test_counters_tell_by_how_much_they_have_grown() -> None:
    before = {"now_s": 10.0, "used_s": 1.0, "waited_s": 0.5, "busy": 100.0, "stolen": 0.0, "ticks": 400.0, "x": 1.0}
    now = {
        "now_s": 12.0,
        "used_s": 2.0,
        "waited_s": 1.5,
        "busy": 250.0,
        "stolen": 20.0,
        "ticks": 600.0,
        "Tcp.RetransSegs": 9.0,
    }

    assert grown(before, now) == {"cpu.used": 0.5, "cpu.waited": 0.5, "cpu.machine": 0.75, "cpu.stolen": 0.1}


def test_counters_that_began_anew_are_no_negative_growth() -> None:
    assert grown({"Tcp.RetransSegs": 9.0}, {"Tcp.RetransSegs": 2.0}) == {"tcp.retransmits": 0.0}


def test_a_kernel_that_tells_less_is_told_less_of(tmp_path: Path) -> None:
    whole = Host(a_proc(tmp_path / "whole")).take()
    less = Host(a_proc(tmp_path / "less", without="net/snmp")).take()

    assert "tcp.retransmits" in whole
    assert "cpu.waited" not in whole
    assert set(whole) - set(less) == {"tcp.retransmits"}


def test_this_machine_is_told_of_in_columns_of_a_point() -> None:
    host = Host()

    point = host.take()

    assert set(point) <= set(BY_NAME)
    assert {"cpu.used", "memory.resident_bytes", "memory.available_bytes", "descriptors.used"} <= set(point)
    assert 0 < point["descriptors.used"] <= 1
    assert point["memory.resident_bytes"] > 1024 * 1024


def test_this_process_was_started_a_while_ago() -> None:
    assert 0 <= wall_s() - started_s() < 24 * 3600


def test_open_files_are_counted(tmp_path: Path) -> None:
    before = open_descriptors()
    with (tmp_path / "one").open("w"), (tmp_path / "two").open("w"):
        assert open_descriptors() == pytest.approx(before + 2, abs=1)


def test_what_listens_no_more_has_no_queue() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    waiting = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    try:
        assert accept_queue(listener) == 3
    finally:
        for one in waiting:
            one.close()
        listener.close()
    assert accept_queue(listener) is None
