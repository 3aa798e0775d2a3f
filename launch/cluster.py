"""What ``HADOOP_CONF_DIR`` says of the cluster, and whether the cluster answers: no JVM, no Kerberos, five seconds."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit
from xml.etree import ElementTree

from recsys.errors import ConfigError

SITE_FILES: Final = ("core-site.xml", "hdfs-site.xml", "yarn-site.xml")
CONNECT_SECONDS: Final = 5.0
_NAMENODE_PORT: Final = 8020
_RESOURCEMANAGER_PORT: Final = 8032
_MOST_SUBSTITUTIONS: Final = 20  # as in Hadoop's Configuration
_VARIABLE: Final = re.compile(r"\$\{([^}$\s]+)\}")

Address = tuple[str, int]


@dataclass(frozen=True)
class Service:
    """A NameNode or ResourceManager: the addresses of its instances, of which one has to answer."""

    name: str
    addresses: tuple[Address, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(f'{host}:{port}' for host, port in self.addresses)})"


@dataclass(frozen=True)
class HadoopConf:
    """The properties of a ``HADOOP_CONF_DIR``."""

    folder: Path
    properties: Mapping[str, str]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read the site files of the folder that ``HADOOP_CONF_DIR`` names.

        Raises:
            ConfigError: it is not set, not a folder, lacks a file, or a file is not Hadoop's.
        """
        folder = conf_dir(environ)
        if not folder.is_dir():
            raise ConfigError(f"HADOOP_CONF_DIR '{folder}' is not a folder. Name the one of {SITE_FILES[0]}.")
        properties: dict[str, str] = {}
        for name in SITE_FILES:
            if (folder / name).is_file():
                properties.update(_read_site(folder / name))
            elif name != "hdfs-site.xml":  # may say nothing
                raise ConfigError(f"HADOOP_CONF_DIR '{folder}' has no {name}. Copy the cluster's client configuration.")
        return cls(folder, properties)

    def get(self, name: str, default: str = "") -> str:
        """A property with its ``${variables}`` filled in; what is unknown stays as it is."""
        value = self.properties.get(name, default)
        for _ in range(_MOST_SUBSTITUTIONS):
            filled = _VARIABLE.sub(self._fill, value)
            if filled == value:
                break
            value = filled
        return value.strip()

    def namenode(self, uri: str) -> Service | None:
        """The NameNodes behind an ``hdfs://`` URI without host (the default file system) or with; None for others.

        Raises:
            ConfigError: the default file system is not set.
        """
        parts = urlsplit(uri)
        if parts.scheme != "hdfs":
            return None
        authority = parts.netloc
        if not authority:
            default = self.get("fs.defaultFS", self.get("fs.default.name"))
            if not default:
                raise ConfigError(f"fs.defaultFS is not set in '{self.folder / SITE_FILES[0]}'. Set it to hdfs://…")
            if urlsplit(default).scheme != "hdfs":
                raise ConfigError(f"'{uri}' names no host, and fs.defaultFS '{default}' is not HDFS. Name the host.")
            authority = urlsplit(default).netloc
        if authority not in self._list("dfs.nameservices"):
            return Service("NameNode", (_address(authority, _NAMENODE_PORT),))
        ids = self._list(f"dfs.ha.namenodes.{authority}")
        suffixes = [f"{authority}.{each}" for each in ids] or [authority]
        hosts = [self.get(f"dfs.namenode.rpc-address.{suffix}") for suffix in suffixes]
        if not all(hosts):
            missing = suffixes[hosts.index("")]
            raise ConfigError(
                f"dfs.namenode.rpc-address.{missing} is not set in '{self.folder}/hdfs-site.xml'. Set it."
            )
        return Service("NameNode", tuple(_address(host, _NAMENODE_PORT) for host in hosts))

    def resourcemanager(self) -> Service:
        """The ResourceManagers.

        Raises:
            ConfigError: none is named.
        """
        is_ha = self.get("yarn.resourcemanager.ha.enabled").lower() == "true"
        ids = self._list("yarn.resourcemanager.ha.rm-ids") if is_ha else []
        suffixes = [f".{each}" for each in ids] or [""]
        addresses = []
        for suffix in suffixes:
            host = self.get(f"yarn.resourcemanager.address{suffix}", self.get(f"yarn.resourcemanager.hostname{suffix}"))
            if not host:
                name = f"yarn.resourcemanager.hostname{suffix}"
                raise ConfigError(f"{name} is not set in '{self.folder}/yarn-site.xml'. Set it to the ResourceManager.")
            addresses.append(_address(host, _RESOURCEMANAGER_PORT))
        return Service("ResourceManager", tuple(addresses))

    def _fill(self, match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("env."):
            return os.environ.get(name.removeprefix("env."), match[0])
        return self.properties.get(name, match[0])

    def _list(self, name: str) -> list[str]:
        return [each.strip() for each in self.get(name).split(",") if each.strip()]


def conf_dir(environ: Mapping[str, str]) -> Path:
    """The folder that ``HADOOP_CONF_DIR`` names.

    Raises:
        ConfigError: it is not set.
    """
    folder = environ.get("HADOOP_CONF_DIR")
    if not folder:
        raise ConfigError("HADOOP_CONF_DIR is not set: it names the folder of core-site.xml and yarn-site.xml.")
    return Path(folder)


def check_reachable(services: list[Service], *, seconds: float = CONNECT_SECONDS) -> None:
    """Connect to one address of every service; a plain TCP connection, so that it works on secured clusters too.

    Raises:
        ConfigError: a service none of whose addresses answers.
    """
    every = [address for service in services for address in service.addresses]
    with ThreadPoolExecutor(len(every) or 1) as pool:
        faults = dict(zip(every, pool.map(lambda address: _connect(address, seconds), every), strict=True))
    for service in services:
        if all(faults[address] for address in service.addresses):
            fault = faults[service.addresses[0]]
            raise ConfigError(
                f"the {service} does not answer: {fault}. Is it up, and is HADOOP_CONF_DIR the right one?"
            )


def _connect(address: Address, seconds: float) -> str:
    """What went wrong; empty when nothing did."""
    try:
        socket.create_connection(address, timeout=seconds).close()
    except OSError as err:
        return err.strerror or str(err)
    return ""


def _read_site(file: Path) -> Iterator[tuple[str, str]]:
    try:
        root = ElementTree.parse(file).getroot()  # noqa: S314 - the administrator's own file
    except (OSError, ElementTree.ParseError) as err:
        raise ConfigError(f"'{file}' cannot be read as XML ({err}). Copy the cluster's file again.") from err
    for entry in root.iter("property"):
        name, value = entry.findtext("name"), entry.findtext("value")
        if name and value is not None:
            yield name.strip(), value.strip()


def _address(text: str, port: int) -> Address:
    parts = urlsplit(f"//{text}")
    try:
        return parts.hostname or text, parts.port or port
    except ValueError as err:
        raise ConfigError(f"'{text}' in HADOOP_CONF_DIR is not host:port ({err}). Correct it.") from err
