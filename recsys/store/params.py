"""Where things are kept and for how long."""

from typing import Annotated, Literal, Self

from pydantic import Field, PlainSerializer, model_validator

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
    log_days: int = Field(default=30, ge=7, le=36_500)  # Delta refuses fewer than it keeps deleted files
    compact_share: float = Field(default=0.2, ge=0, le=1)  # of superseded events from which a bucket is rewritten


class MlflowParams(Section):
    """Where fits are logged."""

    tracking_uri: Address | None = None  # null: sqlite under the warehouse
    artifact_root: Address | None = None  # null: where the server says; without one a folder under the warehouse
    retries: int = Field(default=5, ge=0, le=10)  # of a call that a server does not answer, with growing pauses
    experiment: str = "recsys"
    model: str = "recsys"  # registered name


class KafkaParams(Section):
    """The topic that messages are read from, and how."""

    bootstrap_servers: str | None = None  # host:port,host:port; null: no topic is read
    topic: str | None = None
    starting_offsets: Literal["earliest", "latest"] = "earliest"  # of a topic that was never read
    max_offsets_per_batch: int = Field(default=1_000_000, ge=1)
    max_message_bytes: int = Field(default=65_536, ge=1)  # key and value; a larger message is quarantined
    batch_seconds: float = Field(default=10.0, gt=0)  # between the batches of a continuous run
    timeout_seconds: float = Field(default=60.0, ge=1)  # brokers that do not answer for so long fail the run
    client_properties: str | None = None  # Java properties file with what else the client needs, as credentials

    @model_validator(mode="after")
    def _topic_needs_servers(self) -> Self:
        if (self.topic is None) != (self.bootstrap_servers is None):
            raise ValueError("'bootstrap_servers' and 'topic' are given both or neither")
        return self
