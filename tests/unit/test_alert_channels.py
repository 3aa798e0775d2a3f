"""Messages on their way to people: real receivers, and addresses that nobody gets to read."""

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest

from recsys.alerts.channels import VARIABLE, Channel, Message, check_channels, read_channels, send
from recsys.alerts.params import AlertsParams
from recsys.errors import ConfigError
from tests.receivers import mail_server, webhook

MESSAGE = Message(
    "opened", "quarantine", "ratings", "warning", "[recsys] quarantine: ratings", "500 bad", {}, 1e9, "a1"
)
SECRETS = ("hunter2secret", "tokenpart")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def channels_of(*addresses: str) -> tuple[Channel, ...]:
    return read_channels(AlertsParams(), {VARIABLE: "\n".join(addresses)})


def test_a_message_reaches_webhook_mail_and_file(tmp_path: Path) -> None:
    with webhook() as hook, mail_server() as (port, envelopes):
        mail = f"mailto://127.0.0.1:{port}?from=alerts@example.org&to=ops@example.org"
        file = tmp_path / "alerts.jsonl"
        channels = channels_of(hook.address("/tokenpart"), mail, f"file://{file}")
        assert [channel.label for channel in channels] == ["1 (json)", "2 (mailto)", "3 (file)"]
        assert send(channels, MESSAGE, timeout_seconds=20.0) == {}
        assert send(channels[2:], MESSAGE, timeout_seconds=20.0) == {}
    [body] = hook.bodies
    assert (hook.paths, body["title"], body["message"], body["type"]) == (
        ["/tokenpart"],
        "[recsys] quarantine: ratings",
        "500 bad",
        "warning",
    )
    [envelope] = envelopes
    mailed = message_from_bytes(envelope.content, policy=default)
    assert (envelope.rcpt_tos, mailed["Subject"]) == (["ops@example.org"], "[recsys] quarantine: ratings")
    text = mailed.get_body(("plain", "html"))  # type: ignore[attr-defined]
    assert text.get_content().strip() == "500 bad"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["quarantine", "quarantine"], "appended, not replaced"


def test_case_94_a_channel_that_is_down_refuses_or_is_silent_gives_a_reason_without_its_address(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    caplog.set_level(logging.WARNING)
    secret = "user:hunter2secret@127.0.0.1"
    with webhook(status=500) as hook, silent_port() as silent:
        channels = channels_of(
            f"json://{secret}:{closed_port()}/tokenpart",
            hook.address("/tokenpart").replace("127.0.0.1", secret),
            f"json://{secret}:{silent}/tokenpart?cto=30&rto=30",
            f"file://{tmp_path}/tokenpart/alerts.jsonl",
            "slack://hunter2secret/tokenpart",
        )
        reasons = send(channels, MESSAGE, timeout_seconds=2.0)
    assert reasons["1 (json)"].startswith("A Connection error occurred sending JSON notification")
    assert "error=500" in reasons["2 (json)"]
    assert reasons["3 (json)"] == "no answer within 2 s"
    assert reasons["4 (file)"] == "cannot append: No such file or directory"
    assert reasons["5 (slack)"]
    said = f"{reasons} {channels} {caplog.text} {capfd.readouterr()}"
    assert [secret for secret in SECRETS if secret in said] == []


def test_a_silent_channel_does_not_keep_the_others_from_the_message(tmp_path: Path) -> None:
    file = tmp_path / "alerts.jsonl"
    with silent_port() as silent:
        channels = channels_of(f"json://127.0.0.1:{silent}?cto=30&rto=30", f"file://{file}")
        assert list(send(channels, MESSAGE, timeout_seconds=1.0)) == ["1 (json)"]
    assert json.loads(file.read_text())["title"] == MESSAGE.title


def test_case_96_addresses_come_from_the_environment_and_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    file = tmp_path / "channels"
    file.write_text("# on call\nslack://hunter2secret/b/c\n\n  json://tokenpart/x  \n")
    file.chmod(0o600)
    channels = read_channels(AlertsParams(channels_file=str(file)), {VARIABLE: "json://a  json://b"})
    addresses = ["json://a", "json://b", "slack://hunter2secret/b/c", "json://tokenpart/x"]
    assert [channel.address for channel in channels] == addresses
    assert [secret for secret in SECRETS if secret in repr(channels)] == []
    file.chmod(0o604)
    with pytest.raises(ConfigError, match="has mode 0604: others can read it"):
        read_channels(AlertsParams(channels_file=str(file)), {})


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("hunter2secret", "alert channel 1, in $RECSYS_ALERT_CHANNELS, is no address"),
        ("foo://hunter2secret/tokenpart", "alert channel 1 (foo) is no address that apprise knows: Unparseable URL"),
        ("slack://hunter2secret/tokenpart", "alert channel 1 (slack) is no address that apprise knows: "),
    ],
)
def test_a_wrong_address_is_refused_without_saying_it(address: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_channels(channels_of(address))
    assert reason in str(caught.value)
    assert [secret for secret in SECRETS if secret in str(caught.value)] == []


def test_a_channels_file_that_is_not_there_is_said_to_be_wanted_where_the_driver_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        read_channels(AlertsParams(channels_file=str(tmp_path / "none")), {})
