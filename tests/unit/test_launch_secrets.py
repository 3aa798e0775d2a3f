"""Secrets reach the containers unchanged, and nothing else shows them (case 96)."""

import subprocess
from pathlib import Path

import pytest

from launch.properties import read_properties
from launch.secrets import collect_secrets, is_secret, secret_properties
from recsys.errors import ConfigError
from recsys.session import ROOT

CONF = read_properties(ROOT / "conf" / "spark-yarn.conf")
NASTY = 'p"a$HOME`w\\d'


def test_the_project_s_list_takes_mlflow_to_the_driver_and_aws_to_both() -> None:
    environ = {
        "MLFLOW_TRACKING_TOKEN": "t",
        "MLFLOW_TRACKING_URI": "http://m",
        "AWS_CA_BUNDLE": "/here",
        "AWS_SECRET_ACCESS_KEY": "k",
        "EMPTY": "",
    }
    assert collect_secrets(CONF, environ, in_cluster=True) == {
        "spark.yarn.appMasterEnv.AWS_SECRET_ACCESS_KEY": "k",
        "spark.yarn.appMasterEnv.MLFLOW_TRACKING_TOKEN": "t",
        "spark.executorEnv.AWS_SECRET_ACCESS_KEY": "k",
    }
    assert collect_secrets(CONF, environ, in_cluster=False) == {"spark.executorEnv.AWS_SECRET_ACCESS_KEY": "k"}


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
    conf = {"spark.recsys.secrets": "MY_THING", "spark.redaction.regex": "token"}
    with pytest.raises(ConfigError, match=r"does not cover spark\.yarn\.appMasterEnv\.MY_THING"):
        collect_secrets(conf, {"MY_THING": "x"}, in_cluster=True)
    with pytest.raises(ConfigError, match="is no regular expression"):
        is_secret("spark.a", {"spark.redaction.regex": "(token"})


def test_a_driver_s_secret_passes_the_script_that_yarn_writes() -> None:
    conf = {"spark.recsys.secrets": "A_TOKEN"}
    [(_, value)] = collect_secrets(conf, {"A_TOKEN": NASTY}, in_cluster=True).items()
    script = f'export A_TOKEN="{value}"\nprintenv A_TOKEN'  # as ContainerLaunch writes it
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout == f"{NASTY}\n"


@pytest.mark.parametrize("value", ["two\nlines", "{{PWD}}"])
def test_a_secret_that_yarn_would_change_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="A_TOKEN holds"):
        collect_secrets({"spark.recsys.secrets": "A_*"}, {"A_TOKEN": value}, in_cluster=True)


def test_an_executor_s_secret_with_characters_of_the_shell_is_refused() -> None:
    conf = {"spark.recsys.executorSecrets": "A_*"}
    with pytest.raises(ConfigError, match="A_TOKEN holds"):
        collect_secrets(conf, {"A_TOKEN": NASTY}, in_cluster=False)


def test_the_file_with_secrets_is_its_owner_s_alone_and_lives_as_long_as_the_submission(tmp_path: Path) -> None:
    base = tmp_path / "spark.conf"
    base.write_text("spark.a 1\nspark.b 2")  # no line break at the end
    with secret_properties(base, {"spark.b": NASTY, "spark.token": "t t"}) as file:
        assert read_properties(file) == {"spark.a": "1", "spark.b": NASTY, "spark.token": "t t"}
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
    assert not file.parent.exists()
    assert base.read_text() == "spark.a 1\nspark.b 2"


def test_the_file_goes_when_the_submission_fails_and_without_secrets_there_is_none(tmp_path: Path) -> None:
    base = tmp_path / "spark.conf"
    base.write_text("spark.a 1\n")
    with pytest.raises(ValueError, match="torn"), secret_properties(base, {"spark.token": "t"}) as file:
        raise ValueError("torn")
    assert not file.exists()
    with secret_properties(base, {}) as same:
        assert same == base
