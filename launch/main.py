"""From a command line to an exit code."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NoReturn

from launch import environment
from launch.cluster import HadoopConf, Service, check_reachable, conf_dir
from launch.command import Machine, Submission, YarnPlan, local_submission, plan_yarn
from launch.follow import Ending, Outcome, Reader, Stopped, conclude, follow, raised_signals, wait_for
from launch.hadoop import Hadoop
from launch.java import find_java
from launch.options import USAGE, Options, list_jobs, parse_options
from launch.package import write_package
from launch.secrets import MASK, secret_files
from launch.staging import stage
from recsys.advice import advise
from recsys.errors import ConfigError, RecsysError
from recsys.secrets import FILE

ROOT: Final = Path(__file__).resolve().parent.parent
_LOG_BYTES: Final = 6000  # of the driver's output, shown when it failed
_LOG_TRIES: Final = 5  # nodes hand their logs over a few seconds after an application has ended
_LOG_PAUSE: Final = 2.0  # seconds


def main(words: Sequence[str]) -> int:
    """Run a job; returns its exit code, or 2 when it could not be run as asked."""
    try:
        options = parse_options(words, ROOT)
        if options is None:
            print(USAGE)
            print(f"jobs: {' '.join(list_jobs(ROOT))}")
            return 0
        machine = Machine(ROOT, sys.executable, os.environ)
        ending = _launch_locally(options, machine) if options.env == "local" else _launch_on_yarn(options, machine)
    except RecsysError as err:
        ending = Ending(err.exit_code, errors=(f"error: {err}",))
    except Stopped as stopped:
        return stopped.exit_code
    if ending.message:
        print(ending.message)
    for line in ending.errors:
        print(line, file=sys.stderr)
    return ending.exit_code


def say(text: str) -> None:
    """What goes on, for people who wait."""
    print(text, file=sys.stderr, flush=True)


def _launch_locally(options: Options, machine: Machine) -> Ending:
    submission = local_submission(options, machine)
    if options.dry_run:
        return _show(submission)
    if _asks_only(options):
        return _run_job_here(options, machine)
    find_java(machine.root, machine.environ)
    if submission.secrets:
        with secret_files(submission.properties, submission.secrets) as properties:
            return wait_for(submission.command(properties), submission.environ)
    return _become(submission.command(submission.properties), submission.environ)


def _become(command: list[str], environ: Mapping[str, str]) -> NoReturn:
    """On one machine the job takes this process's place: its signals and its exit code are its own."""
    sys.stdout.flush()
    os.execve(command[0], command, environ)  # noqa: S606


def _launch_on_yarn(options: Options, machine: Machine) -> Ending:
    if _asks_only(options) and not options.dry_run:
        return _run_job_here(options, machine)
    conf_dir(machine.environ)
    if options.dry_run:
        return _show(plan_yarn(options, machine).submission)
    with raised_signals():
        return _submit_to_yarn(options, machine)


def _submit_to_yarn(options: Options, machine: Machine) -> Ending:
    hadoop_conf = HadoopConf.read(machine.environ)
    java = find_java(machine.root, machine.environ)
    plan = plan_yarn(options, machine)
    if plan.archive is not None:
        wanted = environment.pins(machine.root / "requirements" / "runtime.txt")
        environment.check_archive(environment.inspect_archive(plan.archive), plan.archive, wanted)
    check_reachable(_services(hadoop_conf, plan))
    log4j = machine.root / "conf" / "log4j2.properties"
    hadoop = Hadoop(java, machine.spark_home, hadoop_conf.folder, log4j, machine.environ, machine.build)
    there, refusal = _ask_cluster(options, machine, plan, hadoop)
    if refusal is not None:
        return refusal
    stage(plan.artifacts, plan.staging, there, hadoop, machine.build, say)
    write_package(plan.package, plan.package_data)
    with secret_files(plan.submission.properties, plan.submission.secrets) as properties:
        command = plan.submission.command(properties)
        if not plan.in_cluster:
            return wait_for(command, plan.submission.environ)
        returned, reader = follow(command, plan.submission.environ, say, outcome=plan.outcome)
    return _end(returned, reader, plan, hadoop, hadoop_conf)


def _ask_cluster(
    options: Options, machine: Machine, plan: YarnPlan, hadoop: Hadoop
) -> tuple[frozenset[str] | None, Ending | None]:
    """What is staged, and the job's refusal of its arguments; the queue exists, or this raises.

    Three processes of one to three seconds each, at once. In client mode the job's own check comes first anyway.

    Raises:
        ConfigError: the queue does not exist, or the cluster does not answer.
    """
    with ThreadPoolExecutor(3) as pool:
        checked = pool.submit(_check_job, options, machine) if plan.in_cluster else None
        queue = pool.submit(hadoop.check_queue, plan.queue)
        there = pool.submit(hadoop.list_names, plan.staging)
        refusal = checked.result() if checked else None
        if refusal is None:
            queue.result()
        return there.result(), refusal


def _end(returned: int, reader: Reader, plan: YarnPlan, hadoop: Hadoop, hadoop_conf: HadoopConf) -> Ending:
    """The ending of a job in cluster mode; where the job itself could not say it, with the driver's last lines."""
    try:
        text = hadoop.read(plan.outcome) if reader.state or not returned else None
    except ConfigError as err:
        say(f"warning: {err}")
        text = None
    outcome = Outcome.parse(text)
    ending = conclude(returned, reader, outcome)
    if text is not None:
        hadoop.remove(plan.outcome)
    if ending.exit_code != 1 or (outcome is not None and outcome.trace):
        return ending
    said = (*_driver_log(reader.application, hadoop, hadoop_conf), *ending.errors)
    advice = advise("\n".join(said))
    return Ending(ending.exit_code, ending.message, said if advice is None else (*said, advice))


def _driver_log(application: str, hadoop: Hadoop, hadoop_conf: HadoopConf) -> tuple[str, ...]:
    where = f"Logs: yarn logs -applicationId {application}"
    if hadoop_conf.get("yarn.log-aggregation-enable").lower() != "true":
        return (f"{where} (yarn.log-aggregation-enable is not set: they may be on the nodes only)",)
    for attempt in range(_LOG_TRIES):
        time.sleep(_LOG_PAUSE if attempt else 0)
        try:
            log = hadoop.driver_log(application, n_bytes=_LOG_BYTES)
        except ConfigError:
            break
        if log:
            return (f"the driver's last lines:\n{log}", where)
    return (where,)


def _services(conf: HadoopConf, plan: YarnPlan) -> list[Service]:
    namenodes = [conf.namenode(uri) for uri in (conf.get("fs.defaultFS"), plan.staging)]
    return [service for service in dict.fromkeys(namenodes) if service is not None] + [conf.resourcemanager()]


def _asks_only(options: Options) -> bool:
    """Whether the job would only read its arguments, for which neither Spark nor a cluster is needed."""
    return not {"-h", "--help", "--check"}.isdisjoint(options.job_options)


def _run_job_here(options: Options, machine: Machine) -> Ending:
    command = [machine.python, str(options.job), "--env", options.env, *options.job_options]
    return Ending(subprocess.run(command, check=False, env=_job_environ(machine)).returncode)


def _check_job(options: Options, machine: Machine) -> Ending | None:
    """The job's arguments and settings, read here by the job itself; None when there is nothing to say against them."""
    command = [machine.python, str(options.job), "--env", options.env, *options.job_options, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_job_environ(machine))
    return Ending(done.returncode, errors=(done.stderr.strip(),)) if done.returncode else None


def _job_environ(machine: Machine) -> Mapping[str, str]:
    return machine.child_environ("log4j2.properties")


def _show(submission: Submission) -> Ending:
    hidden = tuple(f"{FILE} has {name}={MASK}" for name in submission.secrets.variables)
    return Ending(0, shlex.join(submission.shown()), hidden)
