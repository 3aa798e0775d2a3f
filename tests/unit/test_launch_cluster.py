"""What HADOOP_CONF_DIR names is understood and asked, without a JVM."""

from pathlib import Path

import pytest

from launch.cluster import HadoopConf, Service, check_reachable
from launch.java import find_java
from recsys.errors import ConfigError
from tests.launches import closed_port, listening, write_site


def read(folder: Path, core: dict[str, str], yarn: dict[str, str], hdfs: dict[str, str] | None = None) -> HadoopConf:
    write_site(folder / "core-site.xml", core)
    write_site(folder / "yarn-site.xml", yarn)
    if hdfs is not None:
        write_site(folder / "hdfs-site.xml", hdfs)
    return HadoopConf.read({"HADOOP_CONF_DIR": str(folder)})


def test_a_single_namenode_and_resourcemanager_have_default_ports(tmp_path: Path) -> None:
    conf = read(tmp_path, {"fs.defaultFS": "hdfs://nn"}, {"yarn.resourcemanager.hostname": "rm"})
    assert conf.namenode("hdfs:///recsys/launch") == Service("NameNode", (("nn", 8020),))
    assert conf.resourcemanager() == Service("ResourceManager", (("rm", 8032),))


def test_an_address_wins_over_a_host_name_and_variables_are_filled_in(tmp_path: Path) -> None:
    yarn = {
        "yarn.resourcemanager.hostname": "rm",
        "yarn.resourcemanager.address": "${yarn.resourcemanager.hostname}:9032",
    }
    conf = read(tmp_path, {"fs.defaultFS": "hdfs://${nn.host}:9820", "nn.host": "nn.example"}, yarn)
    assert conf.namenode("hdfs:///x") == Service("NameNode", (("nn.example", 9820),))
    assert conf.resourcemanager().addresses == (("rm", 9032),)


def test_a_name_service_stands_for_its_namenodes_and_ha_ids_for_resourcemanagers(tmp_path: Path) -> None:
    hdfs = {
        "dfs.nameservices": "one, two",
        "dfs.ha.namenodes.two": "a,b",
        "dfs.namenode.rpc-address.two.a": "host-a:9820",
        "dfs.namenode.rpc-address.two.b": "host-b:9820",
    }
    yarn = {
        "yarn.resourcemanager.ha.enabled": "true",
        "yarn.resourcemanager.ha.rm-ids": "rm1,rm2",
        "yarn.resourcemanager.hostname.rm1": "rm-a",
        "yarn.resourcemanager.address.rm2": "rm-b:9032",
    }
    conf = read(tmp_path, {"fs.defaultFS": "hdfs://two"}, yarn, hdfs)
    assert conf.namenode("hdfs://two/recsys") == Service("NameNode", (("host-a", 9820), ("host-b", 9820)))
    assert conf.resourcemanager().addresses == (("rm-a", 8032), ("rm-b", 9032))


def test_other_file_systems_have_no_namenode(tmp_path: Path) -> None:
    conf = read(tmp_path, {"fs.defaultFS": "s3a://bucket"}, {"yarn.resourcemanager.hostname": "rm"})
    assert conf.namenode("s3a://bucket/recsys") is None
    with pytest.raises(ConfigError, match=r"fs\.defaultFS 's3a://bucket' is not HDFS"):
        conf.namenode("hdfs:///recsys")


@pytest.mark.parametrize(
    ("yarn", "hdfs", "said"),
    [
        ({}, {}, r"yarn\.resourcemanager\.hostname is not set"),
        (
            {"yarn.resourcemanager.ha.enabled": "true", "yarn.resourcemanager.ha.rm-ids": "x"},
            {},
            r"hostname\.x is not set",
        ),
        ({"yarn.resourcemanager.address": "rm:http"}, {}, "'rm:http' in HADOOP_CONF_DIR is not host:port"),
        (
            {"yarn.resourcemanager.hostname": "rm"},
            {"dfs.nameservices": "nn", "dfs.ha.namenodes.nn": "a"},
            r"dfs\.namenode\.rpc-address\.nn\.a is not set",
        ),
    ],
)
def test_case_90_a_configuration_with_a_hole_names_the_property(
    yarn: dict[str, str], hdfs: dict[str, str], said: str, tmp_path: Path
) -> None:
    conf = read(tmp_path, {"fs.defaultFS": "hdfs://nn"}, yarn, hdfs)
    with pytest.raises(ConfigError, match=said):
        (conf.resourcemanager(), conf.namenode("hdfs:///x"))


@pytest.mark.parametrize("missing", ["core-site.xml", "yarn-site.xml"])
def test_case_90_a_folder_without_a_site_file_is_refused(missing: str, tmp_path: Path) -> None:
    read(tmp_path, {}, {})
    (tmp_path / missing).unlink()
    with pytest.raises(ConfigError, match=f"has no {missing}"):
        HadoopConf.read({"HADOOP_CONF_DIR": str(tmp_path)})


def test_case_90_hadoop_conf_dir_that_is_unset_missing_or_torn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HADOOP_CONF_DIR is not set"):
        HadoopConf.read({})
    with pytest.raises(ConfigError, match="is not a folder"):
        HadoopConf.read({"HADOOP_CONF_DIR": str(tmp_path / "none")})
    read(tmp_path, {}, {})
    (tmp_path / "yarn-site.xml").write_text("<configuration><property>")
    with pytest.raises(ConfigError, match=r"yarn-site\.xml' cannot be read as XML"):
        HadoopConf.read({"HADOOP_CONF_DIR": str(tmp_path)})


def test_one_answering_instance_of_a_service_is_enough() -> None:
    with listening() as port:
        check_reachable([Service("NameNode", (("localhost", closed_port()), ("localhost", port)))])


def test_case_90_a_service_that_does_not_answer_is_named_with_its_addresses() -> None:
    port = closed_port()
    with listening() as open_port:
        namenode = Service("NameNode", (("localhost", open_port),))
        with pytest.raises(ConfigError) as refused:
            check_reachable([namenode, Service("ResourceManager", (("localhost", port),))])
    assert f"the ResourceManager (localhost:{port}) does not answer: Connection refused" in str(refused.value)


def make_java(folder: Path, release: str | None, prints: str = "") -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho '{prints}' >&2\n")
    java.chmod(0o755)
    if release is not None:
        (folder / "release").write_text(f'IMPLEMENTOR="Test"\nJAVA_VERSION="{release}"\n')
    return java


def test_java_17_is_known_by_its_release_file_without_starting_it(tmp_path: Path) -> None:
    java = make_java(tmp_path / "jdk", "17.0.15", prints="started")
    assert find_java(tmp_path, {"JAVA_HOME": str(tmp_path / "jdk")}) == java


def test_a_java_without_a_release_file_is_asked(tmp_path: Path) -> None:
    java = make_java(tmp_path / "jre", None, prints='openjdk version "21.0.2" 2024-01-16')
    assert find_java(tmp_path, {"PATH": str(java.parent)}) == java


@pytest.mark.parametrize(("release", "shown"), [("1.8.0_402", "8"), ("11.0.22", "11")])
def test_case_90_an_older_java_is_refused(release: str, shown: str, tmp_path: Path) -> None:
    make_java(tmp_path / "old", release)
    with pytest.raises(ConfigError, match=f"is Java {shown}, Spark needs 17"):
        find_java(tmp_path, {"JAVA_HOME": str(tmp_path / "old")})


def test_case_90_no_java_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="JAVA_HOME is not set and there is no 'java' on the path"):
        find_java(tmp_path, {"PATH": str(tmp_path)})
    with pytest.raises(ConfigError, match=f"JAVA_HOME is '{tmp_path}' and there is no 'java' in it"):
        find_java(tmp_path, {"JAVA_HOME": str(tmp_path)})


def test_the_java_that_set_up_brought_comes_first(tmp_path: Path) -> None:
    brought = make_java(tmp_path / ".jars" / "java", "17.0.9")
    make_java(tmp_path / "old", "11")
    assert find_java(tmp_path, {"JAVA_HOME": str(tmp_path / "old")}) == brought
