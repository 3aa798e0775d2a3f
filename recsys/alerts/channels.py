"""Where alerts go: addresses, which are secrets, and one message on its way to them.

An address is one of apprise's (https://github.com/caronc/apprise), as ``mailtos://…``, ``slack://…`` or ``jsons://…``,
or ``file:///path``, to which each message is appended as a line of JSON. Nothing of an address is said but its scheme.
"""

import json
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from recsys.alerts.params import AlertsParams
from recsys.errors import ConfigError
from recsys.params import require_private

VARIABLE: Final = "RECSYS_ALERT_CHANNELS"
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+-]*)://\S")


@dataclass(frozen=True)
class Channel:
    """One way to people. The label says its place and scheme; the address is in no message, log or repr."""

    label: str
    address: str = field(repr=False)


@dataclass(frozen=True)
class Message:
    """One alert, opened or resolved, as it is sent; ``at`` is in seconds since 1970 UTC."""

    event: str
    kind: str
    subject: str
    severity: str
    title: str
    body: str
    counts: Mapping[str, int]
    at: float
    alert: str


def read_channels(params: AlertsParams, environ: Mapping[str, str]) -> tuple[Channel, ...]:
    """The channels of the environment and of the file that the settings name.

    Raises:
        ConfigError: the file cannot be read, or others than its owner may; or an entry is no address.
    """
    found = [(f"${VARIABLE}", text) for text in environ.get(VARIABLE, "").split()]
    if params.channels_file is not None:
        found += [(f"'{params.channels_file}'", text) for text in _read_private(Path(params.channels_file))]
    channels = []
    for number, (origin, text) in enumerate(found, 1):
        scheme = _SCHEME.match(text)
        if scheme is None:
            raise ConfigError(
                f"alert channel {number}, in {origin}, is no address. Write scheme://…, as mailtos://, slack://, "
                "jsons:// or file:///path; docs/operations.md has examples."
            )
        channels.append(Channel(f"{number} ({scheme[1].lower()})", text))
    return tuple(channels)


def check_channels(channels: Sequence[Channel]) -> None:
    """Let apprise look at the addresses; nothing is sent.

    Raises:
        ConfigError: it does not understand one.
    """
    for channel in channels:
        if not channel.address.startswith("file:"):
            _, reason = _open(channel)
            if reason:
                raise ConfigError(
                    f"alert channel {channel.label} is no address that apprise knows: {reason}. Correct it."
                )


def send(channels: Sequence[Channel], message: Message, *, timeout_seconds: float) -> dict[str, str]:
    """Send a message on all channels at once; returns why by the labels of those it failed on.

    A channel that takes longer counts as failed; it may still deliver, so that people get a message twice rather than
    never.
    """
    outcomes: dict[str, str] = {}
    if any(not channel.address.startswith("file:") for channel in channels):
        _import_apprise()  # here, because a thread must not change what warnings do

    def run(channel: Channel) -> None:
        try:
            outcomes[channel.label] = _send_one(channel, message)
        except Exception as err:  # a plugin may raise anything; the reason is what matters
            outcomes[channel.label] = _hide(f"{type(err).__name__}: {err}", channel.address)

    # Daemons: a job does not outlive its work because a mail server does not answer.
    threads = [threading.Thread(target=run, args=(channel,), daemon=True) for channel in channels]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout_seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = f"no answer within {timeout_seconds:g} s"
    found = {channel.label: outcomes.get(channel.label, late) for channel in channels}
    return {label: reason for label, reason in found.items() if reason}


def _read_private(file: Path) -> list[str]:
    try:
        require_private(file)
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "not UTF-8"
        raise ConfigError(
            f"alerts.channels_file '{file}' cannot be read: {reason}. It must be on the machine of the driver, "
            f"with mode 0600; or give the addresses by ${VARIABLE}."
        ) from err
    return [text for line in lines if (text := line.strip()) and not text.startswith("#")]


def _send_one(channel: Channel, message: Message) -> str:
    if channel.address.startswith("file:"):
        return _append(Path(unquote(re.sub("^file:(//)?", "", channel.address))), message)
    sender, reason = _open(channel)
    if sender is None:
        return reason
    with _reasons.listen() as reasons:
        done = sender.notify(body=message.body, title=message.title, notify_type=message.severity, body_format="text")
    return "" if done else _hide("; ".join(reasons) or "refused, without a reason", channel.address)


def _open(channel: Channel) -> tuple[Any, str]:
    """The sender for a channel, or why there is none."""
    apprise = _import_apprise()
    # Neither its threads nor its time-out, which needs them: they would keep a job from ending.
    asset = apprise.AppriseAsset(app_id="recsys", app_desc="recsys alerts", async_mode=False, service_timeout=0)
    sender = apprise.Apprise(asset=asset)
    with _reasons.listen() as reasons:
        is_known = sender.add(channel.address)
    return (sender, "") if is_known else (None, _hide("; ".join(reasons) or "not understood", channel.address))


def _append(file: Path, message: Message) -> str:
    line = json.dumps(asdict(message), ensure_ascii=False) + "\n"
    try:
        # One write to a file opened for appending: lines of several processes do not mix.
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except OSError as err:
        return f"cannot append: {err.strerror}"
    return ""


def _import_apprise() -> Any:
    """Only who has something to send waits for its hundred plugins."""
    logging.getLogger("apprise").addFilter(_reasons)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of its modules imports another that Python deprecates
        import apprise

        apprise.Apprise.instantiate("json://localhost")  # loads the plugins
    return apprise


class _Reasons(logging.Filter):
    """Takes what apprise would log, for whoever asks in this thread, and lets none of it pass.

    It says addresses as they are when it does not understand one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._heard = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            getattr(self._heard, "lines", []).append(" ".join(record.getMessage().split()))
        return False

    @contextmanager
    def listen(self) -> Iterator[list[str]]:
        """The lines of what happens inside it."""
        lines: list[str] = []
        self._heard.lines = lines
        try:
            yield lines
        finally:
            self._heard.lines = []


_reasons = _Reasons()


def _hide(reason: str, address: str) -> str:
    """The reason without any part of the address but its scheme, however it is spelled; rather too much than a part."""
    scheme, _, rest = address.partition("://")
    parts = {rest, unquote(rest), *re.split(r"[^A-Za-z0-9_.-]+", rest), *re.split(r"[/:@?&=#,;]+", unquote(rest))}
    for part in sorted((part for part in parts if len(part) >= 3 and part != scheme), key=len, reverse=True):
        reason = reason.replace(part, "***")
    return reason[:300]
