"""The launcher: one line and exit 2 for what is wrong, and the exact command with --dry-run, before any JVM starts."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.session import ROOT

JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py") if path.name not in ("__init__.py", "runner.py"))


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(
        [str(ROOT / "spark-submit.sh"), *arguments], capture_output=True, text=True, env=env, check=False, timeout=60
    )


def test_all_jobs_of_the_design_are_there() -> None:
    names = {"ingest_ratings", "train_model", "promote_model", "score_users", "rollback", "maintain_tables", "status"}
    assert {
        f"{name}.py" for name in names | {"pipeline", "repair_tables", "forget_user", "quarantine", "land_ratings"}
    } == set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_a_dry_run_prints_the_exact_command_and_starts_nothing(job: str) -> None:
    done = launch("--dry-run", f"jobs/{job}", "--", "--set", "als.rank=8", "--warehouse", "/with space")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)
    assert command[0].endswith("/bin/spark-submit")
    assert command[command.index("--properties-file") + 1].endswith("conf/spark-local.conf")
    assert command[-6:] == ["--env", "local", "--set", "als.rank=8", "--warehouse", "/with space"]
    assert Path(command[-7]).name == job


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no job named"),
        (("--env", "mars", "jobs/status.py"), "--env 'mars' is not known"),
        (("--env",), "--env needs a value"),
        (("jobs/none.py",), "does not exist"),
        (("--fast", "jobs/status.py"), "unknown option '--fast'"),
        (("jobs/status.py", "jobs/rollback.py"), "two jobs named"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: tuple[str, ...], said: str) -> None:
    done = launch(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_case_90_yarn_without_hadoop_conf_dir_is_refused_before_a_jvm_starts() -> None:
    done = launch("--env", "yarn", "jobs/status.py", HADOOP_CONF_DIR="")
    assert done.returncode == 2
    assert "HADOOP_CONF_DIR is not set" in done.stderr


def test_a_dry_run_on_yarn_names_the_cluster_s_settings_and_ships_the_package(tmp_path: Path) -> None:
    done = launch("--env", "yarn", "--dry-run", "jobs/status.py", HADOOP_CONF_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)
    assert command[command.index("--properties-file") + 1].endswith("conf/spark-yarn.conf")
    assert command[command.index("--archives") + 1].endswith("#recsys-package")
    assert command[-2:] == ["--env", "yarn"]


@pytest.mark.parametrize("options", [(), ("--env", "yarn"), ("--env", "yarn", "--deploy-mode", "cluster")])
def test_case_96_a_dry_run_says_no_secret(options: tuple[str, ...], tmp_path: Path) -> None:
    secrets = {"RECSYS_ALERT_CHANNELS": "json://u:hunter2secret@h/t", "OPENLINEAGE_API_KEY": "hunter2secret"}
    done = launch(*options, "--dry-run", "jobs/status.py", HADOOP_CONF_DIR=str(tmp_path), **secrets)
    assert done.returncode == 0, done.stderr
    assert "hunter2secret" not in done.stdout + done.stderr
    assert ("RECSYS_ALERT_CHANNELS" in done.stdout + done.stderr) == ("cluster" in options), "it travels, masked"


def test_a_missing_environment_says_how_to_make_one(tmp_path: Path) -> None:
    done = launch("jobs/status.py", RECSYS_PYTHON=str(tmp_path / "python"))
    assert done.returncode == 2
    assert "make setup" in done.stderr


def test_help_lists_the_jobs() -> None:
    done = launch("--help")
    assert done.returncode == 0
    assert [job for job in JOBS if f"jobs/{job}" not in done.stdout] == []


def test_a_launcher_in_the_way_is_not_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "__init__.py").touch()
    (tmp_path / "launch" / "__main__.py").write_text("print('not this one')")
    monkeypatch.chdir(tmp_path)
    done = launch("--help")
    assert done.returncode == 0, done.stderr
    assert "usage: ./spark-submit.sh" in done.stdout


def test_case_89_an_environment_whose_base_python_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(tmp_path / "gone")
    done = launch("jobs/status.py", RECSYS_PYTHON=str(tmp_path / "python"))
    assert done.returncode == 2
    assert "is a link to an interpreter that is gone" in done.stderr


def test_the_launcher_needs_the_standard_library_only() -> None:
    blocked = """
import importlib, pathlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in sys.stdlib_module_names | {"launch", "recsys"}:
            raise ImportError(f"{name} is not in the standard library")
sys.meta_path.insert(0, Refuse())
for file in pathlib.Path("launch").glob("*.py"):
    if file.stem != "__main__":
        importlib.import_module(f"launch.{file.stem}")
print(sorted(name for name in sys.modules if name.startswith("recsys.")))
"""
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "['recsys.advice', 'recsys.errors', 'recsys.secrets']"
