"""A job that refuses, on YARN; the whole loop is in `test_demo.py`."""

from tests.cluster.hadoop import Hadoop
from tests.cluster.jobs import submit


def test_a_refusal_is_the_exit_code_and_is_not_tried_again(hadoop: Hadoop) -> None:
    """spark-submit alone returns 1 for every failure in cluster mode, and YARN runs a failed driver twice."""
    ended = submit(hadoop, "status", f"--warehouse={hadoop.fs}/recsys/nothing")
    assert ended.code == 2, ended.err
    assert "there is no warehouse at" in ended.err
    assert hadoop.attempts() == 1
