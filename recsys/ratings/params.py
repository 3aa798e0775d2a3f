"""What an ingestion run takes in and when it refuses."""

from typing import Literal

from pydantic import Field

from recsys.params import Section


class LandingParams(Section):
    """Where files arrive and how much of them one batch takes."""

    path: str | None = "warehouse/landing"  # null: no files are read
    catalogue: str | None = None  # a file of items: item_id, title, genres
    max_files: int = Field(default=1000, ge=1)  # per batch
    max_bytes: int = Field(default=10 * 1024**3, ge=1)  # per batch
    max_file_bytes: int = Field(default=2 * 1024**3, ge=1)
    max_line_bytes: int = Field(default=1024**2, ge=1)  # of a text; a reader holds a whole line in memory
    settle_seconds: float = Field(default=0.0, ge=0)  # a file younger than this waits


class IngestParams(Section):
    """When a batch is refused as a whole, and who takes it in."""

    max_bad_share: float = Field(default=0.2, ge=0, le=1)  # quarantined / landed rows of one batch
    consumer: str = Field(default="recsys", pattern=r"^[A-Za-z0-9_-]+$")  # what owners of the data know this system by
    compression: Literal["zstd", "snappy"] = "zstd"
