"""Every error this system raises on purpose, in one tree, each with the exit code its job ends with.

Exit codes: 0 ok, 2 usage or configuration, 3 data rejected, 4 gate refused, 5 locked, 1 anything else.
A message says what happened, where, what was found, and what to do.
"""

from typing import ClassVar


class RecsysError(Exception):
    """Base of all deliberate errors; a job that ends with one exits with its ``exit_code``."""

    exit_code: ClassVar[int] = 1


class UsageError(RecsysError):
    """Wrong arguments, or something named by them that is not there."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key that is unknown, of the wrong type, or out of range."""


class DataRejectedError(RecsysError):
    """Landed data too bad to accept: nothing of the batch was taken."""

    exit_code = 3


class RatingsSchemaError(DataRejectedError):
    """A source whose columns do not fit the contract."""


class RatingsRefusedError(DataRejectedError):
    """Ratings that a producer handed over would be quarantined; nothing was landed."""


class NothingToTrainError(DataRejectedError):
    """Too few ratings, users or items for a fit; the message says which and how many are needed."""


class GateRefusedError(RecsysError):
    """The candidate was judged and refused; the champion stays."""

    exit_code = 4


class LockedError(RecsysError):
    """Another job holds the lock on the tables this one would change."""

    exit_code = 5


class CommitConflictError(RecsysError):
    """Others committed to the same rows of a table, again and again; this commit was given up."""


class ConservationError(RecsysError):
    """Landed rows are not the sum of accepted, duplicate and quarantined rows: something was lost."""


class SourceChangedError(RecsysError):
    """A landed file vanished or changed after it was claimed; nothing of it was committed."""


class BrokerError(RecsysError):
    """Kafka did not answer in time; nothing of the batch under way was committed, and the next run goes on with it."""


class MessagesLostError(RecsysError):
    """Messages are gone before they were read: aged out, deleted, or with the topic, which was made again."""


class ModelArtifactError(RecsysError):
    """A model artifact that is incomplete, tampered with, or not finite; it is not loaded."""


class ConcurrentPromotionError(RecsysError):
    """The champion is not the version the promotion expected; nothing was changed."""


class RegistryError(RecsysError):
    """The model registry cannot be reached or does not hold what was asked for."""


class PublicationError(RecsysError):
    """There is no generation to read or to go back to, or its lists are incomplete."""


class ErasureIncompleteError(RecsysError):
    """Files that may hold the id of a forgotten user are left; the message says where to find which."""


class StorageError(RecsysError):
    """The file system is away, full or closed for writing; what was not committed is not visible."""


class TableDamagedError(RecsysError):
    """Files that a table consists of are gone or cannot be read; nothing was made from what is left."""
