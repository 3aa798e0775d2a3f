"""Settings: one line says key, value, allowed range and file."""

import re
from pathlib import Path

import pytest

from recsys.config import Settings, load_settings
from recsys.errors import ConfigError
from recsys.params import without_password
from recsys.session import ROOT

BASE = ROOT / "conf" / "base.yaml"
SECRET = "http://user:secret@host:5000"


def write(folder: Path, text: str) -> Path:
    file = folder / "own.yaml"
    file.write_text(text)
    return file


def test_base_yaml_holds_every_key_with_the_default_of_the_code() -> None:
    assert load_settings([BASE]) == Settings()
    import yaml

    assert yaml.safe_load(BASE.read_text()) == Settings().model_dump(mode="json")


def test_every_key_of_base_yaml_has_a_sentence() -> None:
    keys = [line for line in BASE.read_text().splitlines() if re.match(r" *[a-z_0-9]+: \S", line)]
    assert [line for line in keys if not re.search(r"# \S{1,}.* .*", line)] == []


@pytest.mark.parametrize("environment", ["local", "yarn"])
def test_the_environments_are_valid(environment: str) -> None:
    load_settings([BASE, ROOT / "conf" / f"{environment}.yaml"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("als: {ranks: 8}", ["unknown key 'als.ranks'", "rank", "own.yaml"]),
        ("als: {rank: many}", ["'als.rank' is 'many'", "integer", "own.yaml"]),
        ("als: {rank: 0}", ["'als.rank' is 0", "greater than or equal to 1", "own.yaml"]),
        ("als: {reg: .inf}", ["'als.reg' is inf", "finite", "own.yaml"]),
        ("colour: red", ["unknown key 'colour'", "own.yaml"]),
        ("als: 3", ["'als' is 3", "own.yaml"]),
        ("- als", ["own.yaml", "section"]),
        ("als: {rank: [", ["own.yaml", "cannot be read"]),
        ("evaluation: {tuned_trend_floors: [0.1, -1.0]}", ["'evaluation.tuned_trend_floors.1' is -1.0", "own.yaml"]),
    ],
)
def test_a_bad_key_is_one_line_naming_key_value_range_and_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings([BASE, write(tmp_path, text)])
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []
    assert caught.value.exit_code == 2


def test_an_override_wins_over_files_and_is_named_when_wrong() -> None:
    assert load_settings([BASE], {"als.rank": "8"}).als.rank == 8
    with pytest.raises(ConfigError, match=r"--set: 'als.rank' is -1"):
        load_settings([BASE], {"als.rank": "-1"})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml' does not exist"):
        load_settings([tmp_path / "none.yaml"])


def test_the_digest_changes_with_any_value_and_with_nothing_else() -> None:
    assert load_settings([BASE]).digest() == Settings().digest()
    assert load_settings([BASE], {"als.seed": "7"}).digest() != Settings().digest()
    assert load_settings([BASE], {"warehouse.root": "elsewhere"}).digest() == Settings().digest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://user:secret@host:5000/path", "http://***@host:5000/path"),
        ("http://token@host", "http://***@host"),
        ("postgresql+psycopg2://user:s@e/cret@host/db", "postgresql+psycopg2://***@host/db"),
        ("cannot reach http://user:secret@host; ask a@b.org", "cannot reach http://***@host; ask a@b.org"),
        ("sqlite:////warehouse/mlflow/mlflow.db", "sqlite:////warehouse/mlflow/mlflow.db"),
        ("hdfs://name:8020/recsys", "hdfs://name:8020/recsys"),
    ],
)
def test_user_and_password_of_an_address_are_not_said(text: str, said: str) -> None:
    assert without_password(text) == said


def test_a_dump_of_settings_holds_no_password_and_the_settings_still_do() -> None:
    settings = load_settings([BASE], {"mlflow.tracking_uri": SECRET, "mlflow.artifact_root": SECRET})
    assert settings.mlflow.tracking_uri == SECRET
    for dump in (settings.model_dump_json(), str(settings.model_dump())):
        assert "secret" not in dump
        assert dump.count("http://***@host:5000") == 2


def test_a_wrong_setting_is_named_without_its_password() -> None:
    with pytest.raises(ConfigError, match=r"'mlflow' is 'http://\*\*\*@host:5000'"):
        load_settings([BASE], {"mlflow": SECRET})


def test_case_96_a_file_with_a_password_that_others_can_read_is_refused_without_saying_it(tmp_path: Path) -> None:
    file = write(tmp_path, f"mlflow: {{tracking_uri: '{SECRET}'}}")
    file.chmod(0o640)
    with pytest.raises(ConfigError) as caught:
        load_settings([BASE, file])
    assert str(caught.value) == f"'{file}' holds secrets and has mode 0640: others can read it. Run: chmod 600 '{file}'"
    file.chmod(0o600)
    assert load_settings([BASE, file]).mlflow.tracking_uri == SECRET


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lineage: {url: 'http://user:secret@host'}", "a user or password has no place here"),
        ("lineage: {url: 'ftp://host'}", "should begin with http"),
        ("lineage: {path: 'hdfs://host/events.jsonl'}", "only a local file can be appended to"),
    ],
)
def test_where_run_events_go_is_checked_before_a_job_runs(tmp_path: Path, text: str, reason: str) -> None:
    file = write(tmp_path, text)
    file.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_settings([BASE, file])
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
