"""The launcher's command line: what it takes, and one line for what it does not."""

from pathlib import Path

import pytest

from launch.options import Options, list_jobs, parse_options
from recsys.errors import UsageError
from recsys.session import ROOT


def parse(*words: str) -> Options:
    options = parse_options(words, ROOT)
    assert options is not None
    return options


def test_everything_after_the_dashes_is_the_job_s() -> None:
    options = parse("--env", "yarn", "jobs/status.py", "--queue", "batch", "--", "--json", "--env", "mars")
    assert (options.env, options.queue, options.job_options) == ("yarn", "batch", ("--json", "--env", "mars"))
    assert options.deploy_mode is None
    assert not options.dry_run


def test_the_last_of_two_values_counts_and_properties_add_up() -> None:
    words = ("--env", "local", "--env", "yarn", "--conf", "spark.a=1", "--conf", "spark.b=x=y", "--conf", "spark.a=2")
    options = parse(*words, "--deploy-mode", "cluster", "--dry-run", "jobs/status.py")
    assert options.conf == {"spark.a": "2", "spark.b": "x=y"}
    assert (options.env, options.deploy_mode, options.dry_run) == ("yarn", "cluster", True)


def test_a_job_is_found_where_the_user_stands_and_then_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("jobs/status.py").job == ROOT / "jobs" / "status.py"
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "status.py").touch()
    assert parse("jobs/status.py").job == Path("jobs/status.py")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--deploy-mode", "pod", "jobs/status.py"], "--deploy-mode 'pod' is not known: client or cluster"),
        (["--queue"], "--queue needs a value"),
        (["--queue", "batch", "jobs/status.py"], "--queue needs --env yarn"),
        (["--env", "local", "--deploy-mode", "cluster", "jobs/status.py"], "--deploy-mode needs --env yarn"),
        (["--conf", "spark.a", "jobs/status.py"], "expected spark.KEY=VALUE"),
        (["--conf", "conf/yarn.yaml", "jobs/status.py"], "expected spark.KEY=VALUE"),
    ],
)
def test_wrong_words_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_options(words, ROOT)


def test_the_runner_is_no_job() -> None:
    assert "jobs/status.py" in list_jobs(ROOT)
    assert "jobs/runner.py" not in list_jobs(ROOT)
