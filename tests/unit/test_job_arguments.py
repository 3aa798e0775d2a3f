"""What a job's command line says and refuses before any Spark session starts."""

from importlib import import_module

import pytest

from jobs.pipeline import read_interval
from recsys.errors import UsageError

JOBS = (
    "land_ratings",
    "ingest_ratings",
    "train_model",
    "promote_model",
    "score_users",
    "rollback",
    "maintain_tables",
    "forget_user",
    "quarantine",
    "repair_tables",
    "status",
    "pipeline",
)


@pytest.mark.parametrize("job", JOBS)
def test_help_says_what_the_job_does_and_its_exit_codes(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        import_module(f"jobs.{job}").main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"jobs/{job}.py" in text
    assert "4 gate refused" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "als.ranks=8"], "unknown key 'als.ranks'"),
        (["--set", "als.rank=none"], "'als.rank' is 'none'"),
        (["--set", "als.rank"], "expected key=value"),
        (["--conf", "/none.yaml"], "'/none.yaml' does not exist"),
        (["--every", "10x"], "--every 10x: expected a number and a unit"),
        (["--set", "contract=none.yaml"], "none.yaml' does not exist"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_2_before_any_session(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.runner.start_session", lambda *_, **__: pytest.fail("a JVM was started"))
    assert import_module("jobs.pipeline").main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert said in text
    assert len(text.strip().splitlines()) == 1


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200)])
def test_an_interval_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert read_interval(text) == seconds


@pytest.mark.parametrize("text", ["10", "m", "0m", "-5m", "1d", "1.5h"])
def test_other_intervals_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="30s, 10m or 2h"):
        read_interval(text)
