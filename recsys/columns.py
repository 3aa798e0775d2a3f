"""Column names, each spelled once. A column of a table is never named by a string literal elsewhere."""

from collections.abc import Iterable
from typing import Final

# ratings
USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
VALUE: Final = "value"  # null: withdrawn
EVENT_TIME: Final = "event_time"
EVENT_ID: Final = "event_id"
EVENT_TYPE: Final = "event_type"  # in sources of events only: becomes the value, its weight
WITHDRAWN: Final = "withdrawn"  # in sources only: a true one becomes a null value
VERSION: Final = "version"  # of a message's schema, in messages only
PARTITION: Final = "partition"  # of a topic, in messages only
BATCH: Final = "batch"
BUCKET: Final = "bucket"

# quarantine and ingest_ledger
SOURCE: Final = "source"
RAW: Final = "raw"
OFFSET: Final = "offset"  # of a message in its partition; null in files
RULES: Final = "rules"
REASON: Final = "reason"
SIZE: Final = "size"
MODIFIED: Final = "modified"
CLAIMED_AT: Final = "claimed_at"
CHECKSUM: Final = "checksum"
FORMAT: Final = "format"
LANDED: Final = "landed"
ACCEPTED: Final = "accepted"
DUPLICATE: Final = "duplicate"
QUARANTINED: Final = "quarantined"
STATE: Final = "state"

# items
POSITION: Final = "position"
TITLE: Final = "title"
GENRES: Final = "genres"
AVAILABLE: Final = "available"

# user_blocks (packed) and split blocks (what a fit or a judgement reads)
BLOCK: Final = "block"
LAYER: Final = "layer"  # of `recsys.blocks.codec`
N_USERS: Final = "n_users"
N_RATINGS: Final = "n_ratings"
USER_IDS: Final = "user_ids"
OFFSETS: Final = "offsets"
ITEMS: Final = "items"
VALUES: Final = "values"
DICTIONARY: Final = "dictionary"
TIMES: Final = "times"
EVENT_IDS: Final = "event_ids"
OLDEST: Final = "oldest"
NEWEST: Final = "newest"
RECENT: Final = "recent"  # what is laid over a block when it is read; never stored
CONTENT: Final = "content"  # of a Parquet file of the ratings table, on its way to be packed; never stored
WEIGHTS: Final = "weights"
HELD_OFFSETS: Final = "held_offsets"
HELD_ITEMS: Final = "held_items"
HELD_VALUES: Final = "held_values"
RATINGS_VERSION: Final = "ratings_version"
THROUGH_BATCH: Final = "through_batch"

# recommendations and generations
GENERATION: Final = "generation"
SCORE: Final = "score"
SEQUENCE: Final = "sequence"
MODEL_VERSION: Final = "model_version"
PUBLISHED_AT: Final = "published_at"
TABLE_VERSIONS: Final = "table_versions"

# The row of `recommendations` that serves users nobody knows. Validation rejects empty user ids, so no
# real user can have it.
FALLBACK_USER_ID: Final = ""

# suppressed_users
USER_HASH: Final = "user_hash"
SUPPRESSED_AT: Final = "suppressed_at"
LISTED_IN: Final = "listed_in"  # generations that had a list of the user

# job_runs
RUN_ID: Final = "run_id"
JOB: Final = "job"
PARAMETERS: Final = "parameters"
VERSIONS_IN: Final = "versions_in"
VERSIONS_OUT: Final = "versions_out"
COUNTS: Final = "counts"
INNER_RUNS: Final = "inner_runs"  # key of the counts: runs with rows of their own inside this one
DETAILS: Final = "details"
OUTCOME: Final = "outcome"
EXIT_CODE: Final = "exit_code"
MESSAGE: Final = "message"
STARTED_AT: Final = "started_at"
SECONDS: Final = "seconds"


def among(column: str, numbers: Iterable[int | str]) -> str:
    """SQL: whether a column holds one of these whole numbers; Delta tells files by it where the column is a folder."""
    return f"{column} IN ({', '.join(map(str, sorted(map(int, numbers))))})"
