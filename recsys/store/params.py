"""Where things are kept and for how long."""

from typing import Annotated

from pydantic import Field, PlainSerializer

from recsys.params import Section, without_password

# A dump of the settings goes to `job_runs`, which many may read: it tells where, but not the password.
Address = Annotated[str, PlainSerializer(without_password)]


class WarehouseParams(Section):
    """The one folder everything lives under, and the shape of its tables."""

    root: str = "warehouse"  # local path or hdfs://
    buckets: int = Field(default=16, ge=1, le=100_000)  # of ratings and user blocks; fixed when the table is made
    users_per_block: int = Field(default=4096, ge=1)
    recent_from: int = Field(default=10_000_000, ge=1)  # ratings in blocks from which recent ones are kept beside them
    recent_share: float = Field(default=0.05, ge=0, le=1)  # of the ratings in blocks: more recent ones are merged
    lock_expiry_seconds: float = Field(default=120.0, gt=0)  # a lock whose holder gave no sign for this long is free
    keep_generations: int = Field(default=3, ge=1)  # that maintenance leaves for rollback
    vacuum_hours: float = Field(default=168.0, ge=0)


class MlflowParams(Section):
    """Where fits are logged."""

    tracking_uri: Address | None = None  # null: sqlite under the warehouse
    artifact_root: Address | None = None  # null: where the server says; without one a folder under the warehouse
    retries: int = Field(default=5, ge=0, le=10)  # of a call that a server does not answer, with growing pauses
    experiment: str = "recsys"
    model: str = "recsys"  # registered name
