"""The launcher's own command line; what follows ``--`` is the job's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from recsys.errors import UsageError

USAGE: Final = (
    "usage: ./spark-submit.sh [--env local|yarn] [--deploy-mode client|cluster] [--queue NAME] [--conf KEY=VALUE] "
    "[--dry-run] jobs/X.py [-- job options]   (-- --help lists a job's own)"
)
CHOICES: Final = {"--env": ("local", "yarn"), "--deploy-mode": ("client", "cluster")}
_VALUES: Final = {
    "--env": "local or yarn",
    "--deploy-mode": "client or cluster",
    "--queue": "a queue of YARN's",
    "--conf": "spark.KEY=VALUE",
}


@dataclass(frozen=True)
class Options:
    """One call of the launcher."""

    job: Path
    job_options: tuple[str, ...] = ()
    env: str = "local"
    deploy_mode: str | None = None  # None: what the properties file says
    queue: str | None = None  # likewise
    conf: Mapping[str, str] = field(default_factory=dict)  # Spark properties, over those of the file
    dry_run: bool = False


def parse_options(words: Sequence[str], root: Path) -> Options | None:
    """Read the command line; None when help is asked for.

    Raises:
        UsageError: anything that is not as `USAGE` says, or a job that does not exist.
    """
    given: dict[str, str] = {}
    properties: list[str] = []
    jobs: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            return None
        if word == "--":
            break
        if word == "--dry-run":
            given[word] = "yes"
        elif word in _VALUES:
            given[word] = _take_value(word, rest)
            properties += [given[word]] if word == "--conf" else []
        elif word.startswith("-"):
            raise UsageError(f"unknown option '{word}'. {USAGE}")
        else:
            jobs.append(word)
    if len(jobs) > 1:
        raise UsageError(f"two jobs named, '{jobs[0]}' and '{jobs[1]}'. Job options come after --. {USAGE}")
    if not jobs:
        raise UsageError(f"no job named. {USAGE}")
    env = given.get("--env", "local")
    for word in ("--deploy-mode", "--queue"):
        if env == "local" and word in given:
            raise UsageError(f"{word} needs --env yarn: on one machine there is neither a cluster nor a queue.")
    return Options(
        job=find_job(jobs[0], root),
        job_options=tuple(rest),
        env=env,
        deploy_mode=given.get("--deploy-mode"),
        queue=given.get("--queue"),
        conf=dict(map(_read_property, properties)),
        dry_run="--dry-run" in given,
    )


def find_job(name: str, root: Path) -> Path:
    """The job's file: as named, or below the project.

    Raises:
        UsageError: there is none.
    """
    job = Path(name)
    if not job.is_absolute() and not job.is_file():
        job = root / name
    if not job.is_file():
        there = " ".join(f"jobs/{file.name}" for file in sorted((root / "jobs").glob("*.py")))
        raise UsageError(f"job '{job}' does not exist. There are: {there}")
    return job


def list_jobs(root: Path) -> list[str]:
    """The jobs of the project, as they are named on the command line."""
    files = sorted((root / "jobs").glob("*.py"))
    return [f"jobs/{file.name}" for file in files if "def main(" in file.read_text("utf-8")]


def _take_value(word: str, rest: list[str]) -> str:
    if not rest:
        raise UsageError(f"{word} needs a value: {_VALUES[word]}")
    value = rest.pop(0)
    if value not in CHOICES.get(word, (value,)):
        raise UsageError(f"{word} '{value}' is not known: {_VALUES[word]}")
    return value


def _read_property(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.startswith("spark."):
        raise UsageError(f"--conf {text}: expected spark.KEY=VALUE, for example --conf spark.executor.instances=8.")
    return key, value
