"""Log lines as events with fields: ``ratings_appended batch=3 rows=1200``."""

import logging
from typing import Any


def log_event(logger: logging.Logger, event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event; fields keep their order and are never user ids or secrets."""
    logger.log(level, "%s %s", event, " ".join(f"{name}={_quote(value)}" for name, value in fields.items()))


def _quote(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return repr(text) if " " in text else text
