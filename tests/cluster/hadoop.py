"""A real HDFS and YARN of one node for tests: four daemons on loopback, from Maven artifacts.

``python -m tests.cluster.hadoop up`` and ``down`` (``make cluster-up``, ``make cluster-down``); tests use `Hadoop`.
Everything lies in one folder: configuration, data, logs, and the process ids by which the daemons are stopped.
"""

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from recsys.session import ROOT

FOLDER: Final = ROOT / "build" / "cluster"
# Below those that systems give to clients, so that a killed daemon finds its own again.
PORTS: Final = range(20_000, 30_000)
PORTS_OF_ONE: Final = 1_000  # that one cluster chooses among
_JARS: Final = ROOT / "build" / "hadoop"
_POM: Final = Path(__file__).with_name("pom.xml")

_SERVICES: Final = (
    "namenode",
    "namenode-http",
    "secondary-http",
    "datanode",
    "datanode-ipc",
    "datanode-http",
    "resourcemanager",
    "scheduler",
    "tracker",
    "admin",
    "resourcemanager-http",
    "nodemanager",
    "localizer",
    "collector",
    "nodemanager-http",
)
_READY_SECONDS: Final = 120.0
_JVM: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true")


@dataclass(frozen=True)
class Daemon:
    """One server: its main class and its heap in MiB."""

    main: str
    heap: int


_SERVER: Final = "org.apache.hadoop.{}"
DAEMONS: Final = {
    "namenode": Daemon(_SERVER.format("hdfs.server.namenode.NameNode"), 256),
    "datanode": Daemon(_SERVER.format("hdfs.server.datanode.DataNode"), 192),
    "resourcemanager": Daemon(_SERVER.format("yarn.server.resourcemanager.ResourceManager"), 384),
    "nodemanager": Daemon(_SERVER.format("yarn.server.nodemanager.NodeManager"), 256),
}


class ClusterError(RuntimeError):
    """The cluster is not what a test needs; the message says which daemon and where its log is."""


def missing() -> str | None:
    """What this machine lacks for a cluster, and how to get it; None when it lacks nothing."""
    for command, what in (("java", "Java 17 (a JDK or JRE)"), ("mvn", "Maven 3")):
        if shutil.which(command) is None and not (command == "mvn" and _have_jars()):
            return f"'{command}' was not found: install {what} to run the cluster tests"
    return None


def fetch_jars() -> None:
    """Download the servers once, about 184 jars; Maven keeps a repository of its own, which Spark's Ivy never sees.

    Raises:
        ClusterError: Maven failed.
    """
    with one_at_a_time(_JARS):
        if _have_jars():
            return
        print("fetching Hadoop's servers (100 MB, under a minute, once) ...", file=sys.stderr, flush=True)
        command = ["mvn", "-q", "-B", "-f", str(_POM), f"-Dmaven.repo.local={_JARS / 'repository'}"]
        command += ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={_JARS / 'lib'}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"Maven could not fetch Hadoop: {(done.stdout + done.stderr).strip()[-800:]}")
        (_JARS / "complete").touch()


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Of several processes that want to fill a folder, others wait for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _have_jars() -> bool:
    return (_JARS / "complete").exists()


class Hadoop:
    """A cluster in a folder; what is started is what runs, whoever asks for it again."""

    def __init__(self, folder: Path = FOLDER, among: range = PORTS[:PORTS_OF_ONE]) -> None:
        """Starts nothing yet; the services get ports ``among`` these."""
        self.folder = folder
        self._among = among
        self.conf = folder / "conf"
        self.data = folder / "data"
        self.logs = folder / "logs"

    @property
    def ports(self) -> dict[str, int]:
        """The port of every service; chosen at the first start, so that clusters of two checkouts never meet."""
        ports: dict[str, int] = json.loads((self.folder / "ports.json").read_text())
        return ports

    @property
    def fs(self) -> str:
        """Address of the file system."""
        return f"hdfs://localhost:{self.ports['namenode']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {"HADOOP_CONF_DIR": str(self.conf), "HADOOP_USER_NAME": "root", "SPARK_LOCAL_IP": "127.0.0.1"}

    def start(self) -> None:
        """Start the daemons that do not run and wait until the cluster takes work.

        Raises:
            ClusterError: a daemon died or was not ready in two minutes; the end of its log is in the message.
        """
        fetch_jars()
        if not any(map(self.is_alive, DAEMONS)):
            self._choose_ports()
        self._write_conf()
        if not (self.data / "nn" / "current").exists():
            self._format()
        for name in DAEMONS:
            self.launch(name)
        self.wait()

    def stop(self) -> None:
        """Stop what was started, by process id; data and logs stay."""
        alive = [name for name in DAEMONS if self.is_alive(name)]
        for name in reversed(alive):
            os.kill(self._pid(name), signal.SIGTERM)
        _wait_until(lambda: not any(map(self.is_alive, alive)), 15.0)
        for name in filter(self.is_alive, alive):
            os.kill(self._pid(name), signal.SIGKILL)

    def launch(self, name: str) -> None:
        """Start one daemon, unless it runs."""
        if self.is_alive(name):
            return
        daemon = DAEMONS[name]
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self._java(daemon.main, heap=daemon.heap), stdout=log, stderr=log, cwd=self.folder,
                env=os.environ | {"HADOOP_CONF_DIR": str(self.conf)}, start_new_session=True,
            )  # fmt: skip
        (self.folder / f"{name}.pid").write_text(str(process.pid))
        _STARTED[process.pid] = process

    def kill(self, name: str) -> None:
        """SIGKILL to one daemon, as when its machine dies."""
        os.kill(self._pid(name), signal.SIGKILL)
        _wait_until(lambda: not self.is_alive(name), 10.0)

    def restart(self, name: str) -> None:
        """Start a daemon again after `kill`, and wait until the cluster takes work."""
        self.launch(name)
        self.wait()

    def is_alive(self, name: str) -> bool:
        """Whether the daemon runs. A killed one may stay a zombie, which signals still reach."""
        try:
            stat = Path(f"/proc/{self._pid(name)}/stat").read_text()
            command = Path(f"/proc/{self._pid(name)}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return False
        is_ours = f"{self.conf}:" in command and DAEMONS[name].main in command  # another cluster may have got its id
        return is_ours and stat.rpartition(")")[2].split()[0] != "Z"

    def wait(self) -> None:
        """Wait until HDFS is out of safe mode with its DataNode, and YARN has its node.

        Raises:
            ClusterError: it did not get there.
        """
        if not _wait_until(lambda: self._is_ready() or not all(map(self.is_alive, DAEMONS)), _READY_SECONDS):
            raise ClusterError(f"the cluster was not ready in {_READY_SECONDS:.0f} s. {self._say_logs(DAEMONS)}")
        dead = [name for name in DAEMONS if not self.is_alive(name)]
        if dead:
            raise ClusterError(f"{', '.join(dead)} ended by itself. {self._say_logs(dead)}")

    def shell(self, *words: str) -> str:
        """``hadoop fs``: what it printed.

        Raises:
            ClusterError: it failed, with its message.
        """
        return self.tool("org.apache.hadoop.fs.FsShell", *words)

    def admin(self, *words: str) -> str:
        """``hdfs dfsadmin``: what it printed."""
        return self.tool("org.apache.hadoop.hdfs.tools.DFSAdmin", *words)

    def tool(self, main: str, *words: str) -> str:
        """Run one of Hadoop's command line tools."""
        command = [*self._java(main, heap=128), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | self.environment)
        if done.returncode:
            raise ClusterError(f"{main.rpartition('.')[2]} {' '.join(words)}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def applications(self) -> list[dict[str, Any]]:
        """YARN's applications, as its REST API tells of them, newest first."""
        found = _get(self.ports["resourcemanager-http"], "/ws/v1/cluster/apps")["apps"] or {"app": []}
        return sorted(found["app"], key=lambda app: -int(app["startedTime"]))

    def application(self, application: str) -> dict[str, Any]:
        """What YARN's REST API tells of one application."""
        app: dict[str, Any] = _get(self.ports["resourcemanager-http"], f"/ws/v1/cluster/apps/{application}")["app"]
        return app

    def attempts(self, application: str | None = None) -> int:
        """How often YARN started the driver of an application, by default the newest."""
        wanted = application or self.applications()[0]["id"]
        found = _get(self.ports["resourcemanager-http"], f"/ws/v1/cluster/apps/{wanted}/appattempts")
        return len(found["appAttempts"]["appAttempt"])

    def _is_ready(self) -> bool:
        try:
            bean = "/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo"
            [info] = _get(self.ports["namenode-http"], bean)["beans"]
            node = _get(self.ports["nodemanager-http"], "/ws/v1/node/info")["nodeInfo"]
            # The NameNode does not notice for minutes that a DataNode was killed: only itself says whether it is back.
            [services] = _get(self.ports["datanode-http"], "/jmx?qry=Hadoop:service=DataNode,name=DataNodeInfo")[
                "beans"
            ]
            serving = [actor["ActorState"] == "RUNNING" for actor in json.loads(services["BPServiceActorInfo"])]
            metrics = _get(self.ports["resourcemanager-http"], "/ws/v1/cluster/metrics")["clusterMetrics"]
        except (OSError, ValueError, KeyError):
            return False
        has_nodes = bool(json.loads(info["LiveNodes"])) and any(serving) and metrics["activeNodes"] > 0
        return not info["Safemode"] and has_nodes and bool(node["nodeHealthy"])

    def _pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    def _java(self, main: str, *, heap: int) -> list[str]:
        java = shutil.which("java") or "java"
        return [java, *_JVM, f"-Xmx{heap}m", "-cp", f"{self.conf}:{_JARS / 'lib'}/*", main]

    def _choose_ports(self) -> None:
        """Keep the ports of the last time while all are free: files of an earlier run name the NameNode by its port."""
        try:
            if all(map(_is_free, self.ports.values())):
                return
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
        ports = dict(zip(_SERVICES, free_ports(len(_SERVICES), self._among), strict=True))
        (self.folder / "ports.json").write_text(json.dumps(ports, indent=1))

    def _format(self) -> None:
        self.tool(DAEMONS["namenode"].main, "-format", "-nonInteractive")

    def _say_logs(self, names: Sequence[str] | Mapping[str, Daemon]) -> str:
        ends = []
        for name in names:
            log = self.logs / f"{name}.log"
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            errors = [line for line in lines if "ERROR" in line or "Exception" in line][-3:]
            ends.append(f"{log}: {' | '.join(errors or lines[-2:])}")
        return "\n".join(ends)

    def _write_conf(self) -> None:
        self.conf.mkdir(parents=True, exist_ok=True)
        # The jars carry no web pages, and the servers die without the folders.
        for kind in ("hdfs", "datanode", "secondary"):
            (self.conf / "webapps" / kind).mkdir(parents=True, exist_ok=True)
        for file, properties in self._properties().items():
            rows = "".join(
                f"<property><name>{escape(name)}</name><value>{escape(str(value))}</value></property>\n"
                for name, value in properties.items()
            )
            (self.conf / file).write_text(f"<configuration>\n{rows}</configuration>\n")
        (self.conf / "log4j.properties").write_text(
            "log4j.rootLogger=WARN, console\n"
            "log4j.appender.console=org.apache.log4j.ConsoleAppender\n"
            "log4j.appender.console.target=System.err\n"
            "log4j.appender.console.layout=org.apache.log4j.PatternLayout\n"
            "log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n\n"
        )

    def _properties(self) -> dict[str, dict[str, object]]:
        ports = self.ports

        def at(port: str) -> str:
            return f"localhost:{ports[port]}"

        scheduler = "org.apache.hadoop.yarn.server.resourcemanager.scheduler.capacity.CapacityScheduler"
        store = "org.apache.hadoop.yarn.server.resourcemanager.recovery.FileSystemRMStateStore"
        executor = "org.apache.hadoop.yarn.server.nodemanager.DefaultContainerExecutor"
        calculator = "org.apache.hadoop.yarn.util.resource.DefaultResourceCalculator"
        queues = {"default": 70, "batch": 30}
        root = "yarn.scheduler.capacity.root"
        preemption = "yarn.resourcemanager.monitor.capacity.preemption"
        return {
            "core-site.xml": {
                "fs.defaultFS": self.fs,
                "hadoop.tmp.dir": self.data / "tmp",
                "hadoop.http.staticuser.user": "root",
                "ipc.client.connect.max.retries": 5,
            },
            "hdfs-site.xml": {
                "dfs.replication": 1,
                "dfs.namenode.name.dir": (self.data / "nn").as_uri(),
                "dfs.datanode.data.dir": (self.data / "dn").as_uri(),
                "dfs.namenode.rpc-address": at("namenode"),
                "dfs.namenode.http-address": at("namenode-http"),
                "dfs.namenode.secondary.http-address": at("secondary-http"),
                "dfs.datanode.address": at("datanode"),
                "dfs.datanode.ipc.address": at("datanode-ipc"),
                "dfs.datanode.http.address": at("datanode-http"),
                "dfs.datanode.hostname": "localhost",
                "dfs.namenode.datanode.registration.ip-hostname-check": "false",
                "dfs.namenode.resource.du.reserved": 10 * 1024**2,
                "dfs.permissions.enabled": "true",
                "dfs.namenode.safemode.extension": 0,
                "dfs.client.block.write.replace-datanode-on-failure.policy": "NEVER",
            },
            "yarn-site.xml": {
                "yarn.resourcemanager.hostname": "localhost",
                "yarn.resourcemanager.address": at("resourcemanager"),
                "yarn.resourcemanager.scheduler.address": at("scheduler"),
                "yarn.resourcemanager.resource-tracker.address": at("tracker"),
                "yarn.resourcemanager.admin.address": at("admin"),
                "yarn.resourcemanager.webapp.address": at("resourcemanager-http"),
                "yarn.nodemanager.hostname": "localhost",
                "yarn.nodemanager.address": at("nodemanager"),
                "yarn.nodemanager.localizer.address": at("localizer"),
                "yarn.nodemanager.collector-service.address": at("collector"),
                "yarn.nodemanager.webapp.address": at("nodemanager-http"),
                "yarn.nodemanager.container-executor.class": executor,
                "yarn.nodemanager.resource.memory-mb": 8192,
                "yarn.nodemanager.resource.cpu-vcores": 16,
                "yarn.scheduler.minimum-allocation-mb": 128,
                "yarn.scheduler.maximum-allocation-mb": 4096,
                "yarn.nodemanager.pmem-check-enabled": "false",
                "yarn.nodemanager.vmem-check-enabled": "false",
                "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": 99.5,
                "yarn.nodemanager.local-dirs": self.data / "nm-local",
                "yarn.nodemanager.log-dirs": self.logs / "containers",
                "yarn.nodemanager.remote-app-log-dir": "/app-logs",
                "yarn.log-aggregation-enable": "true",
                "yarn.nodemanager.env-whitelist": "JAVA_HOME,HADOOP_CONF_DIR,HADOOP_HOME,PATH,LANG,TZ",
                "yarn.nm.liveness-monitor.expiry-interval-ms": 15_000,
                "yarn.am.liveness-monitor.expiry-interval-ms": 120_000,
                "yarn.resourcemanager.am.max-attempts": 4,  # caps what an application asks for
                "yarn.resourcemanager.scheduler.class": scheduler,
                "yarn.resourcemanager.nodemanagers.heartbeat-interval-ms": 200,
                "yarn.resourcemanager.recovery.enabled": "true",
                "yarn.resourcemanager.store.class": store,
                "yarn.resourcemanager.fs.state-store.uri": (self.data / "rmstate").as_uri(),
                "yarn.resourcemanager.connect.retry-interval.ms": 2000,
                # A queue gets its share back from another that is above its own, within seconds and in one go.
                "yarn.resourcemanager.scheduler.monitor.enable": "true",
                f"{preemption}.monitoring_interval": 1000,
                f"{preemption}.max_wait_before_kill": 1000,
                f"{preemption}.total_preemption_per_round": 1.0,
                f"{preemption}.natural_termination_factor": 1.0,
                f"{preemption}.max_ignored_over_capacity": 0.0,
                "yarn.nodemanager.recovery.enabled": "true",
                "yarn.nodemanager.recovery.supervised": "true",
                "yarn.nodemanager.recovery.dir": self.data / "nm-recovery",
            },
            "capacity-scheduler.xml": {  # must exist, or the ResourceManager dies
                "yarn.scheduler.capacity.maximum-am-resource-percent": 1.0,
                "yarn.scheduler.capacity.resource-calculator": calculator,
                "yarn.scheduler.capacity.node-locality-delay": -1,
                f"{root}.queues": ",".join(queues),
                **{f"{root}.{queue}.capacity": share for queue, share in queues.items()},
                **{f"{root}.{queue}.maximum-capacity": 100 for queue in queues},
                **{f"{root}.{queue}.user-limit-factor": 10 for queue in queues},
            },
        }


_STARTED: Final[dict[int, "subprocess.Popen[bytes]"]] = {}  # kept so that ended daemons of this process are reaped


def free_ports(n: int, among: range) -> list[int]:
    """Ports of this machine that are free now.

    Raises:
        ClusterError: there are too few to choose among.
    """
    if len(among) < n:
        raise ClusterError(f"no ports are left: use at most {len(PORTS) // PORTS_OF_ONE - 1} processes (-n)")
    found: list[int] = []
    while len(found) < n:
        port = random.choice(among)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do no harm
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=5) as answer:
        return json.loads(answer.read())


def _wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for process in _STARTED.values():
            process.poll()
        if is_so():
            return True
        time.sleep(0.2)
    return False


def main(words: Sequence[str]) -> int:
    """``up`` or ``down``."""
    if list(words) not in (["up"], ["down"]):
        print("usage: python -m tests.cluster.hadoop up|down", file=sys.stderr)
        return 2
    lacking = missing()
    if lacking is not None:
        print(f"error: {lacking}", file=sys.stderr)
        return 2
    hadoop = Hadoop()
    of_tests = [Hadoop(folder) for folder in FOLDER.parent.glob(f"{FOLDER.name}-gw*")]
    try:
        if words[0] == "up":
            hadoop.start()
            print(
                f"HDFS {hadoop.fs}, YARN http://localhost:{hadoop.ports['resourcemanager-http']}; logs in {hadoop.logs}"
            )
            print(f"export HADOOP_CONF_DIR={hadoop.conf}")
        else:
            for each in (hadoop, *of_tests):
                each.stop()
    except ClusterError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
