"""Who is told of a fault, and from where on something is one."""

from pydantic import Field

from recsys.params import Section


class AlertsParams(Section):
    """Addresses of channels are secrets and never stand here: they are in the environment or in a file of mode 0600."""

    channels_file: str | None = None  # one address a line; besides it, $RECSYS_ALERT_CHANNELS is read
    max_quarantined_share: float = Field(default=0.05, ge=0, le=1)  # of a batch's rows
    max_lag_minutes: float = Field(default=60.0, gt=0)  # of a file that has landed and is not taken in
    timeout_seconds: float = Field(default=15.0, gt=0, le=60)  # for all channels together, at the end of a run
    keep_hours: float = Field(default=72.0, ge=0)  # of a message that could not be delivered
