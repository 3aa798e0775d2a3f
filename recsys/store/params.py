"""Where things are kept and for how long."""

from pydantic import Field

from recsys.params import Section


class WarehouseParams(Section):
    """The one folder everything lives under, and the shape of its tables."""

    root: str = "warehouse"  # local path or hdfs://
    buckets: int = Field(default=16, ge=1, le=100_000)  # of ratings and user blocks; fixed when the table is made
    users_per_block: int = Field(default=4096, ge=1)
    lock_expiry_seconds: float = Field(default=120.0, gt=0)  # a lock whose holder gave no sign for this long is free
    keep_generations: int = Field(default=3, ge=1)  # that maintenance leaves for rollback
    vacuum_hours: float = Field(default=168.0, ge=0)


class MlflowParams(Section):
    """Where fits are logged."""

    tracking_uri: str | None = None  # null: sqlite under the warehouse
    artifact_root: str | None = None  # null: folder under the warehouse; not used with a remote tracking server
    experiment: str = "recsys"
    model: str = "recsys"  # registered name
