"""What a person reads when a file system does not do what a job needs; the texts are Hadoop's, Spark's and Java's."""

import pytest

from recsys.errors import LockedError, RecsysError, StorageError, TableDamagedError, UsageError
from recsys.store.faults import explain, told_in_one_line

TRACE = "\tat org.apache.hadoop.hdfs.DFSClient.x(DFSClient.java:1)\n"
REMOTE = "org.apache.hadoop.ipc.RemoteException(org.apache.hadoop.hdfs.{}): {}"
SAFE = (
    'Cannot create file/recsys/ratings/part-0. Name node is in safe mode.\nIt was turned on manually. Use "hdfs '
    'dfsadmin -safemode leave" to turn safe mode off. NamenodeHostName:localhost'
)
CLOSED = 'Permission denied: user=ann, access=READ_EXECUTE, inode="/landing":root:supergroup:drwx------'
BLOCKS = (
    "File /recsys/ratings/part-0 could only be written to 0 of the 1 minReplication nodes. There are 1 datanode(s) "
    "running and 1 node(s) are excluded in this operation."
)
LOST = "org.apache.hadoop.hdfs.BlockMissingException: Could not obtain block: BP-1:blk_2_3 file=/landing/1.csv No live"
GONE = "[FAILED_READ_FILE.FILE_NOT_EXIST] Encountered error while reading file hdfs://h:1/w/blocks/part-0.parquet. File"


class Py4JJavaError(Exception):
    """Speaks as Py4J's does, which asks a JVM for it."""


def from_java(said: str, *, cause: str = "") -> Py4JJavaError:
    below = f"Caused by: {cause}\n{TRACE}" if cause else ""
    return Py4JJavaError(f"An error occurred while calling o55.save.\n: {said}\n{TRACE}{below}")


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (
            REMOTE.format(
                "protocol.DSQuotaExceededException",
                "The DiskSpace quota of /recsys/ratings is exceeded: quota = 1024 B = 1 KB but diskspace consumed = 5",
            ),
            StorageError,
            "the HDFS DiskSpace quota of folder '/recsys/ratings' is exceeded: quota = 1024 B = 1 KB but diskspace",
        ),
        (
            "org.apache.hadoop.hdfs.protocol.NSQuotaExceededException: The NameSpace quota (directories and files) of "
            "directory /recsys is exceeded: quota=9 file count=10",
            StorageError,
            "the HDFS NameSpace quota of folder '/recsys' is exceeded: quota=9 file count=10. Raise it",
        ),
        (
            REMOTE.format("server.namenode.SafeModeException", SAFE),
            StorageError,
            "HDFS is in safe mode and takes no writes (Cannot create file/recsys/ratings/part-0). Wait until",
        ),
        (
            f"org.apache.hadoop.security.AccessControlException: {CLOSED}",
            UsageError,
            "user 'ann' has no READ_EXECUTE access to '/landing', which is root's with mode drwx------. Grant it",
        ),
        (
            "java.net.ConnectException: Call From me/127.0.0.1 to namenode:8020 failed on connection exception: "
            "java.net.ConnectException: Connection refused; For more details see:  http://wiki",
            StorageError,
            "the server at namenode:8020 does not answer.",
        ),
        (
            'java.io.EOFException: End of File Exception between local host is: "me/127.0.0.1"; destination host is: '
            '"namenode":8020; : java.io.EOFException; For more details see:  http://wiki',
            StorageError,
            "the server at namenode:8020 does not answer.",
        ),
        (
            REMOTE.format("x.IOException", BLOCKS),
            StorageError,
            "no DataNode of HDFS takes a block of '/recsys/ratings/part-0'.",
        ),
        (LOST, StorageError, "no DataNode of HDFS gives a block of '/landing/1.csv'."),
        ("java.io.IOException: No space left on device", StorageError, "no space is left on a disk of this machine."),
        (
            "org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] Encountered error while reading file "
            "hdfs://h:1/w/items/_delta_log/00000000000000000005.json.  SQLSTATE: KD001",
            TableDamagedError,
            "'hdfs://h:1/w/items/_delta_log/00000000000000000005.json' is damaged or gone",
        ),
        (
            "java.lang.RuntimeException: file:/w/items/_delta_log/00000000000000000002.checkpoint.parquet is not a "
            "Parquet file. Expected magic number at tail, but found [0, 0, 28, 0]",
            TableDamagedError,
            "'file:/w/items/_delta_log/00000000000000000002.checkpoint.parquet' is damaged or gone",
        ),
        (
            "org.apache.spark.sql.delta.DeltaFileNotFoundException: [DELTA_TRUNCATED_TRANSACTION_LOG] "
            "file:/w/items/_delta_log/00000000000000000004.json: Unable to reconstruct state at version 5 as",
            TableDamagedError,
            "'file:/w/items/_delta_log/00000000000000000004.json' is damaged or gone",
        ),
        (
            f"org.apache.spark.SparkException: {GONE} does not exist.",
            TableDamagedError,
            "'hdfs://h:1/w/blocks/part-0.parquet' is gone, and a table needs it",
        ),
    ],
)
def test_cases_24_25_40_41_42_87_a_fault_is_one_line_with_where_and_what_to_do(
    said: str, kind: type[RecsysError], words: str
) -> None:
    told = explain(from_java(said))
    assert type(told) is kind
    assert words in str(told)
    assert "\n" not in str(told)
    wrapped = from_java("org.apache.spark.SparkException: Job aborted due to stage failure: x", cause=said)
    assert str(explain(wrapped)) == str(told)


def test_case_87_a_file_that_cannot_be_read_because_its_datanode_is_away_is_not_a_damaged_one() -> None:
    unread = "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file hdfs://h:1/landing/1.csv."
    assert isinstance(explain(from_java(unread, cause=LOST)), StorageError)
    assert explain(from_java(unread, cause="java.lang.RuntimeException: not a Parquet file")) is None


def test_the_fault_behind_an_error_of_python_is_told_too() -> None:
    err = OSError("could not read")
    err.__cause__ = from_java(LOST)
    assert isinstance(explain(err), StorageError)


def test_what_is_told_already_and_what_is_not_known_stay_as_they_are() -> None:
    with pytest.raises(LockedError, match=r"^held$"), told_in_one_line():
        raise LockedError("held")
    with pytest.raises(Py4JJavaError), told_in_one_line():
        raise from_java("java.lang.IllegalStateException: odd")
    with pytest.raises(StorageError), told_in_one_line():
        raise from_java(LOST)
