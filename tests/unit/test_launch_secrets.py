"""Secrets reach the containers unchanged, and nothing else shows them (case 96)."""

import json
import os
from pathlib import Path

import pytest

from launch.properties import read_properties
from launch.secrets import Secrets, collect_secrets, is_secret, secret_files
from recsys.errors import ConfigError
from recsys.secrets import FILE, VARIABLES, take_secrets
from recsys.session import ROOT

CONF = read_properties(ROOT / "conf" / "spark-yarn.conf")
NASTY = 'p"a$HOME`w\\d{{x}}\nnext'


def test_the_project_s_list_takes_mlflow_to_the_driver_s_python_and_aws_to_every_environment() -> None:
    environ = {
        "MLFLOW_TRACKING_TOKEN": "t",
        "MLFLOW_TRACKING_URI": "http://m",
        "AWS_CA_BUNDLE": "/here",
        "AWS_SECRET_ACCESS_KEY": "k",
        "EMPTY": "",
    }
    of_executors = {"spark.executorEnv.AWS_SECRET_ACCESS_KEY": "k"}
    assert collect_secrets(CONF, environ, in_cluster=True) == Secrets(
        {**of_executors, "spark.yarn.appMasterEnv.AWS_SECRET_ACCESS_KEY": "k"}, {"MLFLOW_TRACKING_TOKEN": "t"}
    )
    assert collect_secrets(CONF, environ, in_cluster=False) == Secrets(of_executors)


def test_what_every_environment_gets_is_not_sent_to_the_driver_a_second_time() -> None:
    conf = {"spark.recsys.secrets": "A_*", "spark.recsys.environmentSecrets": "A_TOKEN"}
    secrets = collect_secrets(conf, {"A_TOKEN": "t", "A_SECRET": "s"}, in_cluster=True)
    assert secrets.variables == {"A_SECRET": "s"}


def test_case_96_spark_hides_every_variable_that_the_project_ships() -> None:
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_ACCESS_KEY_ID")
    names += (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "RECSYS_ALERT_CHANNELS",
        "OPENLINEAGE_API_KEY",
    )
    assert [name for name in names if not is_secret(f"spark.yarn.appMasterEnv.{name}", CONF)] == []
    assert not is_secret("spark.executor.memory", CONF)


def test_a_variable_that_spark_would_show_is_refused() -> None:
    conf = {"spark.recsys.environmentSecrets": "MY_THING", "spark.redaction.regex": "token"}
    with pytest.raises(ConfigError, match=r"does not cover spark\.yarn\.appMasterEnv\.MY_THING"):
        collect_secrets(conf, {"MY_THING": "x"}, in_cluster=True)
    with pytest.raises(ConfigError, match="is no regular expression"):
        is_secret("spark.a", {"spark.redaction.regex": "(token"})


def test_what_the_driver_alone_gets_arrives_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = collect_secrets({"spark.recsys.secrets": "A_TOKEN"}, {"A_TOKEN": NASTY}, in_cluster=True)
    (tmp_path / "spark.conf").touch()
    for name in ("A_TOKEN", VARIABLES):
        monkeypatch.setenv(name, "before")  # so that it is undone
        monkeypatch.delenv(name)
    take_secrets()
    assert "A_TOKEN" not in os.environ
    with secret_files(tmp_path / "spark.conf", secrets) as properties:
        monkeypatch.setenv(VARIABLES, str(properties.with_name(FILE)))
        take_secrets()
    assert os.environ["A_TOKEN"] == NASTY
    assert VARIABLES not in os.environ  # no child looks for it


@pytest.mark.parametrize("value", ["two\nlines", "{{PWD}}", 'a"b', "a$b", "a`b", "a\\b"])
def test_a_secret_that_containers_would_get_changed_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="A_TOKEN holds"):
        collect_secrets({"spark.recsys.environmentSecrets": "A_*"}, {"A_TOKEN": value}, in_cluster=True)


def test_case_96_files_with_secrets_are_their_owner_s_alone_and_live_as_long_as_the_submission(tmp_path: Path) -> None:
    base = tmp_path / "spark.conf"
    base.write_text("spark.a 1\nspark.b 2")  # no line break at the end
    with secret_files(base, Secrets({"spark.b": 'p"a$', "spark.token": "t t"}, {"A_TOKEN": "x"})) as file:
        assert read_properties(file) == {"spark.a": "1", "spark.b": 'p"a$', "spark.token": "t t"}
        assert json.loads(file.with_name(FILE).read_text()) == {"A_TOKEN": "x"}
        assert [each.stat().st_mode & 0o777 for each in (file, file.with_name(FILE))] == [0o600, 0o600]
        assert file.parent.stat().st_mode & 0o777 == 0o700
    assert not file.parent.exists()
    assert base.read_text() == "spark.a 1\nspark.b 2"


def test_the_files_go_when_the_submission_fails_and_without_secrets_there_are_none(tmp_path: Path) -> None:
    base = tmp_path / "spark.conf"
    base.write_text("spark.a 1\n")
    with pytest.raises(ValueError, match="torn"), secret_files(base, Secrets({"spark.token": "t"})) as file:
        raise ValueError("torn")
    assert not file.exists()
    with secret_files(base, Secrets()) as same:
        assert same == base
