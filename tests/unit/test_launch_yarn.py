"""A submission to YARN from the command line to the exit code, with scripts in the place of Spark and Hadoop."""

import json
import shlex
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import launch.main
from launch.environment import MINOR
from recsys.secrets import FILE, VARIABLES
from recsys.store.outcome import OUTCOME
from tests.launches import (
    APPLICATION,
    SUBMITTED,
    SUCCEEDED,
    Became,
    World,
    closed_port,
    listening,
    make_world,
    report,
    run_launcher,
    write_site,
)

SHARED = ("--conf", "spark.recsys.python=shared")  # packing an environment has tests of its own
CLUSTER = ("--env", "yarn", "--deploy-mode", "cluster", *SHARED)
CLIENT = ("--env", "yarn", "--deploy-mode", "client", *SHARED)
FAILED = SUBMITTED + report("ACCEPTED") + report("FAILED", status="FAILED", diagnostics="AM exited with exitCode: 1")

Launch = Callable[..., int]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with listening() as port:
        yield make_world(tmp_path, port=port)


@pytest.fixture
def launcher(world: World, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.setattr(launch.main, "_LOG_PAUSE", 0.0)

    def run(*words: str, **environ: str) -> int:
        return run_launcher(monkeypatch, world, *words, **environ)

    return run


def submitted(world: World) -> dict[str, Any]:
    """The one call of spark-submit."""
    [call] = world.calls("spark-submit")
    return call


def value_of(option: str, words: list[str]) -> str:
    return words[words.index(option) + 1]


def conf_of(words: list[str]) -> dict[str, str]:
    pairs = [words[at + 1].partition("=") for at, word in enumerate(words) if word == "--conf"]
    return {key: value for key, _, value in pairs if key.startswith("spark.")}


def left(code: int, message: str = "", error: str = "", trace: str = "") -> str:
    return json.dumps({"exit_code": code, "message": message, "error": error, "trace": trace})


# --- what is submitted


def test_the_exact_command_of_a_cluster_mode_submission(world: World, launcher: Launch) -> None:
    world.script("log", SUCCEEDED)
    world.script("outcome", left(0, "all is well"))
    launcher(*CLUSTER, "--queue", "batch", "jobs/status.py", "--", "--json")
    call = submitted(world)
    words = call["words"]
    assert value_of("--properties-file", words) == str(world.root / "conf" / "spark-yarn.conf")
    assert (value_of("--deploy-mode", words), value_of("--queue", words)) == ("cluster", "batch")
    jars = value_of("--jars", words).split(",")
    assert [jar.rpartition("-")[0] for jar in jars] == [
        "hdfs:///recsys/launch/delta-spark_1",
        "hdfs:///recsys/launch/delta-storage-1",
    ]
    assert value_of("--archives", words).startswith(str(world.root / "build" / "launch" / "recsys-package-"))
    assert value_of("--archives", words).endswith(".tar.gz#recsys-package")
    conf = conf_of(words)
    assert conf["spark.yarn.archive"].startswith("hdfs:///recsys/launch/spark-4.2.0-")
    assert conf["spark.pyspark.python"] == launch.main.sys.executable
    assert conf["spark.yarn.appMasterEnv.PYTHONPATH"] == conf["spark.executorEnv.PYTHONPATH"] == "./recsys-package"
    assert conf[f"spark.yarn.appMasterEnv.{OUTCOME}"].startswith("hdfs:///recsys/launch/outcomes/status-")
    assert conf["spark.yarn.submit.waitAppCompletion"] == "true"
    assert not any("SPARK_LOCAL_IP" in key for key in conf)
    assert words[-4:] == [str(world.root / "jobs" / "status.py"), "--env", "yarn", "--json"]
    libraries = call["environ"]["PYSPARK_ARCHIVES_PATH"].split(",")
    assert [library.rpartition("-")[0] for library in libraries] == [
        "hdfs:///recsys/launch/py4j-src",
        "hdfs:///recsys/launch/pyspark",
    ]
    assert str(world.root) not in call["environ"]["PYTHONPATH"].split(":")  # paths of here mean nothing there


def test_client_mode_keeps_driver_and_its_python_here(world: World, launcher: Launch) -> None:
    assert launcher(*CLIENT, "jobs/status.py") == 0
    call = submitted(world)
    conf = conf_of(call["words"])
    assert conf["spark.pyspark.driver.python"] == launch.main.sys.executable
    assert not any(key.startswith("spark.yarn.appMasterEnv.") for key in conf)
    assert call["environ"]["PYTHONPATH"].split(":")[0] == str(world.root)
    assert [other for other in world.calls("FsShell") if other["words"][0] in ("-cat", "-rm")] == []


def test_the_properties_file_decides_what_the_command_line_leaves_open(world: World, launcher: Launch) -> None:
    file = world.root / "conf" / "spark-yarn.conf"
    file.write_text(file.read_text() + "spark.submit.deployMode cluster\nspark.yarn.queue batch\n")
    assert launcher("--env", "yarn", "--dry-run", "jobs/status.py") == 0
    assert launcher("--env", "yarn", *SHARED, "jobs/status.py") == 1  # the script leaves no outcome
    words = submitted(world)["words"]
    assert (value_of("--deploy-mode", words), value_of("--queue", words)) == ("cluster", "batch")


def test_an_address_to_bind_travels_only_when_the_submitter_has_one(world: World, launcher: Launch) -> None:
    launcher(*CLUSTER, "jobs/status.py", SPARK_LOCAL_IP="127.0.0.1")
    conf = conf_of(submitted(world)["words"])
    assert conf["spark.yarn.appMasterEnv.SPARK_LOCAL_IP"] == conf["spark.executorEnv.SPARK_LOCAL_IP"] == "127.0.0.1"


def test_the_job_s_settings_files_travel_in_cluster_mode(world: World, launcher: Launch, tmp_path: Path) -> None:
    one, two = tmp_path / "a b.yaml", tmp_path / "two.yaml"
    one.touch()
    two.touch()
    launcher(*CLUSTER, "jobs/status.py", "--", "--conf", str(one), "--json", f"--conf={two}")
    words = submitted(world)["words"]
    assert value_of("--files", words) == f"{one}#settings-1.yaml,{two}#settings-2.yaml"
    assert words[-5:] == ["--conf", "settings-1.yaml", "--json", "--conf", "settings-2.yaml"]


@pytest.mark.parametrize("setting", ["spark.yarn.jars=local:/opt/spark/jars/*", "spark.yarn.archive=hdfs:///spark.zip"])
def test_jars_that_are_on_the_nodes_are_not_copied(setting: str, world: World, launcher: Launch) -> None:
    launcher(*CLIENT, "--conf", setting, "jobs/status.py")
    assert not any(file.name.startswith("spark-") for file in (world.hdfs / "recsys" / "launch").iterdir())
    assert setting in submitted(world)["words"]


def test_an_interpreter_of_the_nodes_is_taken_as_it_is_named(world: World, launcher: Launch) -> None:
    launcher("--env", "yarn", "--conf", "spark.recsys.python=/opt/python/bin/python3", "jobs/status.py")
    words = submitted(world)["words"]
    assert conf_of(words)["spark.pyspark.python"] == "/opt/python/bin/python3"
    assert "#environment" not in value_of("--archives", words)


# --- staging


def test_the_second_submission_uploads_nothing(world: World, launcher: Launch) -> None:
    assert launcher(*CLIENT, "jobs/status.py") == 0
    verbs = [call["words"][2] for call in world.calls("FsShell") if call["words"][0] == "-D"]
    assert verbs == ["-mkdir", "-put"]  # one JVM for all files
    staged = sorted((world.hdfs / "recsys" / "launch").iterdir())
    assert len(staged) == 5  # Spark's jars, two of Delta, two of pyspark
    assert launcher(*CLIENT, "jobs/status.py") == 0
    assert len([call for call in world.calls("FsShell") if "-put" in call["words"]]) == 1
    assert sorted((world.hdfs / "recsys" / "launch").iterdir()) == staged
    assert list((world.root / "build" / "launch").iterdir()) != []
    folders = {file.name for file in (world.root / "build" / "launch").iterdir() if file.is_dir()}
    assert folders == {"classes"}  # no copies stay here


def test_what_is_staged_is_readable_by_all(world: World, launcher: Launch) -> None:
    launcher(*CLIENT, "jobs/status.py")
    writes = [call["words"] for call in world.calls("FsShell") if "-put" in call["words"] or "-mkdir" in call["words"]]
    assert [words[:2] for words in writes] == [["-D", "fs.permissions.umask-mode=022"]] * 2


def test_other_content_gets_another_name(world: World, launcher: Launch) -> None:
    launcher(*CLIENT, "jobs/status.py")
    (world.folder / "spark" / "jars" / "spark-core_2.13-4.2.0.jar").write_text("patched")
    launcher(*CLIENT, "jobs/status.py")
    names = [file.name for file in (world.hdfs / "recsys" / "launch").iterdir() if file.name.startswith("spark-4.2.0-")]
    assert len(names) == 2


def test_a_staging_folder_that_cannot_be_written_is_the_hadoop_message_and_exit_2(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.script("FsShell", 'put: Permission denied: user=x, access=WRITE, inode="/recsys":hdfs:supergroup:drwxr-xr-x')
    world.script("FsShell.code", "1")
    assert launcher(*CLIENT, "jobs/status.py") == 2
    assert "Permission denied: user=x" in capsys.readouterr().err
    assert world.calls("spark-submit") == []


# --- environment


def test_the_environment_is_packed_once_and_used_by_driver_and_executors(
    world: World, launcher: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = []

    def pack(target: Path, _: Path) -> None:
        packed.append(target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("an archive")

    monkeypatch.setattr("launch.environment.pack_environment", pack)
    for _ in range(2):
        launcher("--env", "yarn", "--deploy-mode", "cluster", "jobs/status.py")
        [name] = packed
        uploaded = world.hdfs / "recsys" / "launch"
        shutil.rmtree(uploaded.with_name("lost"), ignore_errors=True)
        uploaded.rename(uploaded.with_name("lost"))  # another cluster, or somebody cleaned up
    launcher("--env", "yarn", "--deploy-mode", "cluster", "jobs/status.py")
    [name] = packed
    assert (world.hdfs / "recsys" / "launch" / name).read_text() == "an archive"
    words = world.calls("spark-submit")[-1]["words"]
    assert value_of("--archives", words).split(",")[0] == f"hdfs:///recsys/launch/{name}#environment"
    assert conf_of(words)["spark.pyspark.python"] == "./environment/bin/python"


def test_case_89_an_archive_with_a_dangling_interpreter_is_refused_before_anything_is_started(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    archive = tmp_path / "env.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("bin/python")
        member.type, member.linkname = tarfile.SYMTYPE, "/opt/gone/bin/python3"
        tar.addfile(member)
    assert launcher("--env", "yarn", "--conf", f"spark.recsys.python={archive}", "jobs/status.py") == 2
    said = capsys.readouterr().err
    assert "is a link to '/opt/gone/bin/python3', which does not exist" in said
    assert len(said.splitlines()) == 1
    assert world.calls() == []


def test_an_archive_of_the_user_s_that_passes_is_staged_by_its_content(
    world: World, launcher: Launch, tmp_path: Path
) -> None:
    archive = tmp_path / "mine.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("bin/python"))
        tar.addfile(tarfile.TarInfo(f"lib/python{MINOR}/site-packages/six-1.dist-info/METADATA"))
    launcher("--env", "yarn", "--conf", f"spark.recsys.python={archive}", "jobs/status.py")
    [staged] = (world.hdfs / "recsys" / "launch").glob("mine-*.tar.gz")
    assert staged.read_bytes() == archive.read_bytes()
    assert f"{staged.name}#environment" in value_of("--archives", submitted(world)["words"])


# --- secrets


SECRET = {"MLFLOW_TRACKING_TOKEN": "s3cret-token", "AWS_SECRET_ACCESS_KEY": "s3cret-key"}


def test_case_96_secrets_travel_in_files_of_mode_600_that_are_gone_afterwards(world: World, launcher: Launch) -> None:
    launcher(*CLUSTER, "--conf", "spark.hadoop.fs.s3a.secret.key=s3cret-conf", "jobs/status.py", **SECRET)
    call = submitted(world)
    assert "s3cret" not in json.dumps(call["words"])
    assert "spark.executorEnv.AWS_SECRET_ACCESS_KEY=s3cret-key" in call["properties"]
    assert "spark.yarn.appMasterEnv.AWS_SECRET_ACCESS_KEY=s3cret-key" in call["properties"]
    assert "spark.hadoop.fs.s3a.secret.key=s3cret-conf" in call["properties"]
    assert "s3cret-token" not in call["properties"]  # YARN would write it into a script and a log
    assert "spark.recsys.staging" in call["properties"]  # and everything of conf/spark-yarn.conf
    assert call["mode"] == 0o600
    folder = Path(value_of("--properties-file", call["words"])).parent
    assert value_of("--files", call["words"]) == f"{folder}/{FILE}#{FILE}"
    assert conf_of(call["words"])[f"spark.yarn.appMasterEnv.{VARIABLES}"] == FILE
    assert not folder.exists()


def test_case_96_a_dry_run_names_secrets_and_shows_none(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launcher(*CLUSTER, "--dry-run", "jobs/status.py", **SECRET) == 0
    printed = capsys.readouterr()
    assert "s3cret" not in printed.out + printed.err
    words = shlex.split(printed.out)
    assert conf_of(words)["spark.executorEnv.AWS_SECRET_ACCESS_KEY"] == "***"
    assert value_of("--files", words) == f"***/{FILE}#{FILE}"
    assert printed.err == f"{FILE} has MLFLOW_TRACKING_TOKEN=***\n"


# --- dry run


def test_a_dry_run_prints_what_would_be_run_and_leaves_no_trace(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_site(
        world.folder / "hadoop" / "yarn-site.xml", {"yarn.resourcemanager.address": f"localhost:{closed_port()}"}
    )
    before = sorted(world.root.rglob("*"))
    assert launcher(*CLUSTER, "--dry-run", "jobs/status.py", "--", "--set", "a=b c") == 0
    shown = shlex.split(capsys.readouterr().out)
    assert shown[0] == str(world.folder / "spark" / "bin" / "spark-submit")
    assert shown[-2:] == ["--set", "a=b c"]
    assert world.calls() == []
    assert sorted(world.root.rglob("*")) == before


def test_case_90_a_dry_run_without_hadoop_conf_dir_is_refused_too(launcher: Launch) -> None:
    assert launcher(*CLUSTER, "--dry-run", "jobs/status.py", HADOOP_CONF_DIR="") == 2


def test_a_dry_run_is_the_command_that_is_then_run(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher(*CLIENT, "--dry-run", "jobs/status.py")
    shown = shlex.split(capsys.readouterr().out)
    launcher(*CLIENT, "jobs/status.py")
    assert submitted(world)["words"] == shown[1:]


# --- how it ends


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_cluster_mode_returns_a_refusal_s_own_code_and_says_why(
    code: int, world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.script("log", SUCCEEDED)
    world.script("outcome", left(code, "judged on 900 users", "refused: worse than the champion"))
    assert launcher(*CLUSTER, "jobs/status.py") == code
    printed = capsys.readouterr()
    assert printed.out == "judged on 900 users\n"
    assert printed.err.splitlines()[-1] == "refused: worse than the champion"
    assert f"{APPLICATION}: http://rm:8088/proxy/{APPLICATION}/" in printed.err
    assert list((world.hdfs / "recsys" / "launch" / "outcomes").iterdir()) == []  # the file is removed
    assert world.calls("LogsCLI") == []


def test_cluster_mode_success_prints_what_the_job_would_have_printed(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.script("log", SUCCEEDED)
    world.script("outcome", left(0, '{"rows": 3}'))
    assert launcher(*CLUSTER, "jobs/status.py", "--", "--json") == 0
    assert capsys.readouterr().out == '{"rows": 3}\n'


def test_an_unexpected_error_is_1_with_the_driver_s_trace(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.script("log", FAILED)
    world.script("code", "1")
    world.script("outcome", left(1, error="error: status failed: ValueError: x", trace="Traceback: line 7"))
    write_site(world.folder / "hadoop" / "hdfs-site.xml", {"yarn.log-aggregation-enable": "true"})
    assert launcher(*CLUSTER, "jobs/status.py") == 1
    assert capsys.readouterr().err.splitlines()[-2:] == ["Traceback: line 7", "error: status failed: ValueError: x"]
    assert world.calls("LogsCLI") == []


def test_a_driver_that_died_shows_its_last_lines_and_what_yarn_says(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_site(
        world.folder / "hadoop" / "hdfs-site.xml", {"yarn.log-aggregation-enable": "true"}
    )  # any of the site files
    world.script("log", FAILED)
    world.script("code", "1")
    container = f"container_{APPLICATION.removeprefix('application_')}_02_000001"
    log = f"Container: {container} on n_1\nLogType:stdout\nLogContents:\nMemoryError\nEnd of LogType:stdout\n"
    world.script("LogsCLI", log)
    assert launcher(*CLUSTER, "jobs/status.py") == 1
    said = capsys.readouterr().err
    assert "the driver's last lines:\nMemoryError\n" in said
    assert f"yarn logs -applicationId {APPLICATION}" in said
    assert "AM exited with exitCode: 1" in said
    assert said.splitlines()[-1] == "The driver left no outcome."


def test_where_logs_are_not_collected_it_says_so_and_asks_nobody(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.script("log", FAILED)
    world.script("code", "1")
    assert launcher(*CLUSTER, "jobs/status.py") == 1
    assert "yarn.log-aggregation-enable is not set" in capsys.readouterr().err
    assert world.calls("LogsCLI") == []


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_client_mode_returns_spark_submit_s_code(code: int, world: World, launcher: Launch) -> None:
    world.script("code", str(code))
    assert launcher(*CLIENT, "jobs/status.py") == code


def test_what_yarn_refuses_is_exit_2_and_one_line(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.script(
        "log", 'Exception in thread "main" java.lang.IllegalArgumentException: Required AM memory is above\n\tat x\n'
    )
    world.script("code", "1")
    assert launcher(*CLUSTER, *("--conf", "spark.yarn.jars=local:/x/*"), "jobs/status.py") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: YARN did not take the application: Required AM memory is above"
    )


# --- what is refused before anything is submitted


def test_case_90_a_queue_that_does_not_exist_is_refused(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launcher(*CLUSTER, "--queue", "nightly", "jobs/status.py") == 2
    assert capsys.readouterr().err == (
        "error: queue 'nightly' does not exist. Name one with --queue, or set spark.yarn.queue.\n"
    )
    assert world.calls("spark-submit") == []
    assert not (world.hdfs / "recsys").exists()  # nothing was copied for it


@pytest.mark.parametrize(
    ("file", "key", "value", "name"),
    [
        ("core-site.xml", "fs.defaultFS", "hdfs://localhost:{}", "NameNode"),
        ("yarn-site.xml", "yarn.resourcemanager.address", "localhost:{}", "ResourceManager"),
    ],
)
def test_case_90_an_unreachable_cluster_is_refused_quickly_and_before_a_jvm(
    file: str, key: str, value: str, name: str, world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = closed_port()
    write_site(world.folder / "hadoop" / file, {key: value.format(port)})
    began = time.monotonic()
    assert launcher(*CLUSTER, "jobs/status.py") == 2
    assert time.monotonic() - began < 6
    said = capsys.readouterr().err
    assert f"the {name} (localhost:{port}) does not answer" in said
    assert len(said.splitlines()) == 1
    assert world.calls() == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"HADOOP_CONF_DIR": ""}, "HADOOP_CONF_DIR is not set"),
        ({"HADOOP_CONF_DIR": "/none"}, "HADOOP_CONF_DIR '/none' is not a folder"),
        ({"JAVA_HOME": "/none"}, "no Java: JAVA_HOME is '/none'"),
        ({"SPARK_HOME": "/none"}, "no jars in '/none/jars'"),
        ({"AWS_SECRET_ACCESS_KEY": "a$b"}, "AWS_SECRET_ACCESS_KEY holds a quote"),
    ],
)
def test_case_90_a_wrong_environment_is_refused_before_a_jvm(
    environ: dict[str, str], said: str, world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launcher(*CLUSTER, "jobs/status.py", **environ) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert world.calls() == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("spark.executor.memory", "'spark.executor.memory' has no value"),
        ("executor.memory 4g", "does not begin with 'spark.'"),
        ("spark.recsys.python venv", "spark.recsys.python 'venv' is not known"),
        ("spark.recsys.staging /recsys", "spark.recsys.staging must be a folder like hdfs:///recsys/launch"),
        ("spark.redaction.regex (token", "is no regular expression"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_case_90_a_bad_properties_file_is_refused_before_a_jvm(
    line: str, said: str, dry: tuple[str, ...], world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = world.root / "conf" / "spark-yarn.conf"
    file.write_text(f"{file.read_text()}{line}\n")
    assert launcher("--env", "yarn", *dry, "jobs/status.py") == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert world.calls() == []


def test_wrong_arguments_of_the_job_do_not_go_to_the_cluster(
    world: World, launcher: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launcher(*CLUSTER, "jobs/status.py", "--", "--bad") == 2
    assert capsys.readouterr().err == "error: --bad is no setting\n"
    assert world.calls("spark-submit") == []
    assert not (world.hdfs / "recsys").exists()


@pytest.mark.parametrize("words", [("--env", "yarn"), ("--env", "local")])
@pytest.mark.parametrize("asked", ["--help", "--check"])
def test_help_and_check_need_neither_spark_nor_a_cluster(
    words: tuple[str, ...], asked: str, world: World, launcher: Launch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launcher(*words, "jobs/status.py", "--", asked, HADOOP_CONF_DIR="") == 0
    assert capfd.readouterr().out == f"the job ran here: --env {words[1]} {asked}\n"
    assert world.calls() == []


# --- one machine


def test_on_one_machine_the_job_takes_the_launcher_s_place(world: World, launcher: Launch) -> None:
    with pytest.raises(Became) as became:
        launcher("jobs/status.py", "--", "--json", HADOOP_CONF_DIR="")
    [(program, words, environ)] = became.value.args
    root = world.root
    assert program == words[0] == str(world.folder / "spark" / "bin" / "spark-submit")
    assert words[1:] == [
        *("--properties-file", str(root / "conf" / "spark-local.conf")),
        *("--jars", f"{root}/.jars/delta-spark_1.jar,{root}/.jars/delta-storage-1.jar"),
        *(str(root / "jobs" / "status.py"), "--env", "local", "--json"),
    ]
    assert environ["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert environ["PYSPARK_PYTHON"] == environ["PYSPARK_DRIVER_PYTHON"] == launch.main.sys.executable
    assert environ["PYTHONPATH"].startswith(f"{root}:")
    assert environ["OPENBLAS_NUM_THREADS"] == environ["NUMBA_NUM_THREADS"] == "1"
    assert environ["SPARK_SUBMIT_OPTS"].endswith(f"file:{root}/conf/log4j2.properties")


def test_case_90_no_java_is_refused_on_one_machine_too(launcher: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher("jobs/status.py", JAVA_HOME="/none") == 2
    assert "Install a Java 17" in capsys.readouterr().err
