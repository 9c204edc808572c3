"""Where a notification may go: DESIGN's "SSRF by webhook", decided by number."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.errors import Misconfigured
from seawall.monitoring.notifications import NotificationSettings
from seawall.monitoring.web_addresses import Ip, WebAddress, refusal, undisguised

PUBLIC = [
    "8.8.8.8",
    "93.184.215.14",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "2606:4700::1111",
]
PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "::1",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "::2",
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "224.0.0.1",
    "239.255.255.250",
    "ff02::1",
    "ff05::2",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "2001:db8::1",
    "2001::1",
    "2002:7f00:1::",
    "64:ff9b:1::a9fe:a9fe",
    "100::1",
    "4000::1",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_may_be_told(text: str) -> None:
    assert refusal(ip_address(text), allow_private=False) is None


@pytest.mark.parametrize("text", PRIVATE)
def test_this_machine_and_private_networks_only_when_allowed(text: str) -> None:
    assert refusal(ip_address(text), allow_private=False)
    assert refusal(ip_address(text), allow_private=True) is None


@pytest.mark.parametrize("text", NEVER)
def test_metadata_and_what_nobody_can_be_at_never(text: str) -> None:
    assert refusal(ip_address(text), allow_private=False)
    assert refusal(ip_address(text), allow_private=True)


@pytest.mark.parametrize("disguise", ["::ffff:{}", "::ffff:0:{}", "::{}", "64:ff9b::{}"])
@pytest.mark.parametrize("text", [one for one in [*PRIVATE, *NEVER] if ":" not in one])
def test_an_ipv4_address_is_judged_in_every_disguise(disguise: str, text: str) -> None:
    disguised = ip_address(disguise.format(text))
    if str(disguised) in {"::", "::1"}:
        return

    for allow_private in (False, True):
        plain = refusal(ip_address(text), allow_private=allow_private)
        assert refusal(disguised, allow_private=allow_private) == plain


@given(st.ip_addresses())
def test_nothing_python_calls_private_passes(address: Ip) -> None:
    # It calls every disguise private, also that of a public address.
    if undisguised(address) == address and (not address.is_global or address.is_multicast):
        assert refusal(address, allow_private=False)


@given(st.ip_addresses())
def test_allowing_private_networks_never_refuses_more(address: Ip) -> None:
    if refusal(address, allow_private=False) is None:
        assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example/x",
        "ftp://hooks.example/x",
        "file:///etc/passwd",
        "gopher://hooks.example/x",
        "https://",
        "https:///x",
        "https://hooks.example:0/",
        "https://hooks.example:65536/",
        "https://hooks.example:http/",
        "https://[::1/",
        "https://[hooks]/",
        "https://[127.0.0.1]/",
        "https://[fe80::1%25eth0]/",
        "https://a..b/",
        "https://-a.example/",
        "https://" + "a" * 64 + ".example/",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nX-Evil: 1",
        "https://hooks.example\\@10.0.0.1/",
        "https://hööks.example/",
        "https://hooks.example/#top",
        "https://hooks.example/" + "a" * 3000,
    ],
)
def test_what_is_no_address_is_refused_in_a_sentence_that_does_not_repeat_it(url: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        WebAddress.parse(url, setting="SEAWALL_NOTIFY_WEBHOOK_URL")

    assert str(refused.value).startswith("SEAWALL_NOTIFY_WEBHOOK_URL ")
    assert not url or url not in str(refused.value)


@pytest.mark.parametrize("url", ["https://me:hunter2@hooks.example/", "https://hunter2@hooks.example/", "https://@h/"])
def test_a_password_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Misconfigured, match="user name or password") as refused:
        WebAddress.parse(url, setting="SEAWALL_NOTIFY_WEBHOOK_URL")

    assert "hunter2" not in str(refused.value)


def test_an_address_shows_where_it_leads_and_not_its_path() -> None:
    address = WebAddress.parse("HTTPS://Hooks.Slack.com/services/T0/B0/secret?token=secret", setting="X")

    assert (address.host, address.port) == ("hooks.slack.com", 443)
    assert address.path == "/services/T0/B0/secret?token=secret"
    assert address.place == "https://hooks.slack.com"
    assert "secret" not in repr(address)
    assert WebAddress.parse("http://[::1]:81", setting="X").place == "http://[::1]:81"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "localhost",
        "LOCALHOST",
        "a.localhost",
        "10.1.2.3",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
    ],
)
def test_a_target_inside_is_refused_at_start(host: str) -> None:
    with pytest.raises(Misconfigured, match="nothing is sent there"):
        NotificationSettings(webhook_url=f"https://{host}/hook")


def test_a_target_inside_can_be_allowed_but_never_metadata() -> None:
    allowed = NotificationSettings(webhook_url="http://127.0.0.1:9/hook", allow_private=True)

    assert [target.place for target in allowed.targets()] == ["http://127.0.0.1:9"]
    with pytest.raises(Misconfigured, match="metadata"):
        NotificationSettings(webhook_url="http://169.254.169.254/latest", allow_private=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slack_url": "https://hooks.slack.com"}, "SLACK_URL lacks its path"),
        ({"slack_url": "http://hooks.slack.com/services/a"}, "must start with https"),
        ({"pagerduty_key": "short"}, "PAGERDUTY_KEY is no integration key"),
        ({"pagerduty_key": "R" * 32, "pagerduty_url": "http://events.pagerduty.com/"}, "must start with https"),
        ({"ntfy_url": "https://ntfy.sh"}, "NTFY_URL is the server and one topic"),
        ({"ntfy_url": "https://ntfy.sh/a/b"}, "NTFY_URL is the server and one topic"),
        ({"ntfy_url": "https://ntfy.sh/a?x=1"}, "NTFY_URL is the server and one topic"),
        ({"ntfy_url": "http://ntfy.sh/a", "ntfy_token": "tk_1"}, "must start with https"),
        ({"ntfy_token": "tk_1"}, "NTFY_URL is not"),
        ({"webhook_url": "https://h.example/", "webhook_token": "a\r\nb"}, "WEBHOOK_TOKEN is no token"),
    ],
)
def test_a_target_that_cannot_work_is_refused_at_start(settings: dict[str, str], words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        NotificationSettings(**settings)  # type: ignore[arg-type]


def test_no_settings_no_targets_and_no_secret_in_what_can_be_logged() -> None:
    settings = NotificationSettings(
        webhook_url="https://hooks.example/s3cret",
        webhook_token="s3cret",
        slack_url="https://hooks.slack.com/services/s3cret",
        pagerduty_key="s3cret".ljust(32, "0"),
        ntfy_url="https://ntfy.sh/s3cret",
        ntfy_token="s3cret",
    )

    assert NotificationSettings().targets() == ()
    assert [target.name for target in settings.targets()] == ["webhook", "slack", "pagerduty", "ntfy"]
    assert "s3cret" not in repr((settings, settings.targets()))
