"""Settings come from options, the environment and a file, and refuse to be nonsense."""

from pathlib import Path

import pytest

from seawall.errors import Misconfigured
from seawall.settings import PREFIX, Settings, read_settings, unknown_variables


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
    monkeypatch.delenv("SEAWALL_SETTINGS_FILE", raising=False)


def test_an_option_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "seawall.toml"
    file.write_text("s3_port = 1\nconsole_port = 1\nweb_port = 1\n")
    monkeypatch.setenv("SEAWALL_SETTINGS_FILE", str(file))
    monkeypatch.setenv("SEAWALL_CONSOLE_PORT", "2")
    monkeypatch.setenv("SEAWALL_S3_PORT", "2")

    settings = read_settings({"s3_port": 3, "host": None})

    assert (settings.s3_port, settings.console_port, settings.web_port) == (3, 2, 1)
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("S3_PORT", "70000"),
        ("S3_PORT", "http"),
        ("NODES", "0"),
        ("NODES", "1:2:3"),
        ("ROOT_SECRET_KEY", "short"),
        ("INLINE_MAX_BYTES", "9000"),
        ("STALL_S", "-1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"{PREFIX}{name}", value)

    with pytest.raises(Misconfigured, match=name.lower()):
        read_settings()


def test_a_secret_that_is_refused_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_ROOT_SECRET_KEY", "hunter2")

    with pytest.raises(Misconfigured) as refusal:
        read_settings()

    assert "hunter2" not in str(refusal.value)


def test_a_name_in_the_file_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "seawall.toml"
    file.write_text("s3_prot = 9000\n")
    monkeypatch.setenv("SEAWALL_SETTINGS_FILE", str(file))

    with pytest.raises(Misconfigured, match="s3_prot"):
        read_settings()


def test_a_file_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEAWALL_SETTINGS_FILE", str(tmp_path / "nowhere.toml"))

    with pytest.raises(Misconfigured):
        read_settings()


def test_a_file_that_is_not_toml_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "seawall.toml"
    file.write_text("s3_port: 9000\n")
    monkeypatch.setenv("SEAWALL_SETTINGS_FILE", str(file))

    with pytest.raises(Misconfigured, match="cannot be read"):
        read_settings()


def test_variables_that_look_like_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_S3_PROT", "9000")

    assert unknown_variables() == ["SEAWALL_S3_PROT"]


def test_a_child_process_gets_the_same_settings_but_not_the_roots_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_settings({"s3_port": 1234, "nodes": "2:4", "root_secret_key": "very secret", "data_dir": "/data"})

    environment = settings.as_environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert "very secret" not in str(environment)
    assert read_settings().model_dump(exclude={"root_secret_key"}) == settings.model_dump(exclude={"root_secret_key"})


def test_settings_do_not_show_their_secrets() -> None:
    settings = read_settings({"root_secret_key": "very secret", "database_url": "postgresql://u:hunter2@h/d"})

    assert "very secret" not in repr(settings)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(settings.external_database())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://host/db", "starts with"),
        ("postgresql://a:secret@one,one/db", "twice"),
        ("postgresql://a:secret@one,two/db?port=1,2,3", "not an address"),
        ("postgresql://host:port/db", "not an address"),
        ("postgresql://host/db?sslmode=maybe", "sslmode"),
        ("postgresql://host/db?colour=red", "colour"),
    ],
)
def test_a_database_address_that_cannot_be_used_is_refused_without_repeating_it(url: str, reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason) as refusal:
        read_settings({"database_url": url}).external_database()

    assert "secret" not in str(refusal.value)
