"""Messages of a real Kafka broker: each is accounted for once, whatever breaks on the way."""

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import AclOperation
from pyspark.sql import SparkSession

from jobs import forget_user, ingest_ratings
from jobs.runner import JobContext, make_context
from recsys import ingestion, streaming
from recsys.blocks.current import current_ratings
from recsys.errors import BrokerError, MessagesLostError, UsageError
from recsys.ratings.kafka import OffsetRange
from recsys.session import ROOT
from recsys.store.kafka import Topic
from tests.cluster.kafka import Kafka, rating, send_all
from tests.jobs.fingerprint import hash_tables
from tests.jobs.warehouses import arguments, copy_warehouse, land_csv, make_settings

DAY = 1_700_000_000
CONTRACT = "conf/contracts/ratings.yaml"
Open = Callable[..., JobContext]


@pytest.fixture(scope="module")
def empty_warehouse(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kafka-ingest")
    make_context(spark, make_settings(root / "empty", root / "landing"))
    return root / "empty"


@pytest.fixture
def open_warehouse(spark: SparkSession, broker: Kafka, empty_warehouse: Path, tmp_path: Path) -> Open:
    def open_it(
        topic: str, name: str = "warehouse", contract: str = CONTRACT, **sections: dict[str, object]
    ) -> JobContext:
        own: dict[str, object] = {"bootstrap_servers": broker.servers, "topic": topic, "timeout_seconds": 20.0}
        kafka = own | sections.pop("kafka", {})
        settings = make_settings(tmp_path / name, tmp_path / "landing", kafka=kafka, **sections)
        settings = settings.model_copy(update={"contract": contract})
        return copy_warehouse(spark, empty_warehouse, settings)

    (tmp_path / "landing").mkdir()
    return open_it


def ledger(context: JobContext) -> list[tuple[str, int, int, int, int]]:
    """Source, landed, accepted, duplicate, quarantined, by batch; the law holds in every row, no offset is left out."""
    rows = context.tables.ledger.read().orderBy("batch", "source").collect()
    ends: dict[tuple[str, int], int] = {}
    for row in rows:
        assert row.landed == row.accepted + row.duplicate + row.quarantined, row
        if row.format == "kafka":
            found = OffsetRange.from_source(row.source, row.checksum)
            assert found.start == ends.get((found.topic_id, found.partition), 0), row
            ends[found.topic_id, found.partition] = found.end
    return [(row.source, row.landed, row.accepted, row.duplicate, row.quarantined) for row in rows]


def current(context: JobContext) -> dict[tuple[str, str], float]:
    rows = current_ratings(context.tables.ratings.read()).select("user_id", "item_id", "value").collect()
    return {(row.user_id, row.item_id): row.value for row in rows}


def packed_ratings(context: JobContext) -> int:
    return int(context.tables.user_blocks.read().agg({"n_ratings": "sum"}).collect()[0][0] or 0)


def at(point: str, act: Callable[[], object]) -> Callable[[str], None]:
    """In the place of `pause_at`: act when a run comes by a point."""
    return lambda name: act() and None if name == point else None


def checkpoint(context: JobContext) -> Path:
    """The folder of the newest checkpoint."""
    found = sorted(Path(context.settings.warehouse.root, "streams").glob("*/*/*"))
    return found[-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_cases_33_to_36_poison_is_quarantined_by_its_offset_and_everything_else_of_every_partition_is_taken_in(
    broker: Kafka, open_warehouse: Open, tmp_path: Path
) -> None:
    contract = yaml.safe_load((ROOT / CONTRACT).read_text())
    [versions] = [own for own in contract["schema"][0]["customProperties"] if own["property"] == "messageVersions"]
    versions["value"]["2"] = {"user_id": ["uid"]}
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(contract))
    context = open_warehouse("poison", contract=str(tmp_path / "contract.yaml"))
    broker.create_topic("poison")
    good = rating("u1", "i1", 8, DAY)
    second = f'{{"version": 2, "uid": "u2", "item_id": "i1", "value": 7, "event_time": {DAY}}}'
    broker.send("poison", [good, second, b"\xff\xfe{}", "hello", None, "", good + good, good])
    broker.send("poison", [rating("u3", "i1", 3, DAY)], key=bytes(1_000_000))
    broker.send("poison", [rating("u3", "i1", 99, DAY), rating("u3", "i2", 5, DAY, version=3)])
    for commits, user in ((True, "u4"), (False, "aborted"), (True, "u5")):
        producer = Producer({"bootstrap.servers": broker.servers, "log_level": 0, "transactional.id": user})
        producer.init_transactions(30)
        producer.begin_transaction()
        send_all(producer, "poison", [rating(user, "i1", 4, DAY)])
        producer.commit_transaction(30) if commits else producer.abort_transaction(30)

    ingest_ratings.run(context)

    bad = context.tables.quarantine.read().select("source", "offset", "rules").orderBy("offset").collect()
    assert {row.source for row in bad} == {"kafka:poison/0/0-16"}
    assert [(row.offset, *row.rules) for row in bad] == [
        (2, "not_utf8"),
        (3, "broken_message"),
        (4, "null_message"),
        (5, "empty_message"),
        (6, "broken_message"),
        (8, "message_too_large"),
        (9, "value_out_of_range"),
        (10, "unknown_version"),
    ]
    assert ledger(context) == [("kafka:poison/0/0-16", 13, 4, 1, 8)]  # three marks of transactions, one aborted message
    taken = {("u1", "i1"): 8.0, ("u2", "i1"): 7.0, ("u4", "i1"): 4.0, ("u5", "i1"): 4.0}
    assert current(context) == taken

    broker.add_partitions("poison", 3)
    for partition in range(3):
        broker.send("poison", [rating(f"p{partition}", "i1", 6, DAY)], partition)
    ingest_ratings.run(context)
    assert ledger(context)[1:] == [(f"kafka:poison/{own}", 1, 1, 0, 0) for own in ("0/17-17", "1/0-0", "2/0-0")]
    assert current(context) == taken | {(f"p{partition}", "i1"): 6.0 for partition in range(3)}


def test_cases_20_21_and_29_without_a_broker_nothing_changes_and_without_a_checkpoint_nothing_is_skipped_or_doubled(
    broker: Kafka, open_warehouse: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = open_warehouse("steady")
    broker.create_topic("steady", 2)
    sent = {}

    def send_and_run(n: int) -> list[str]:
        """One more message to each partition; what the operator is told."""
        for partition in range(2):
            broker.send("steady", [rating(f"u{n}", f"i{partition}", n, DAY)], partition)
            sent[f"u{n}", f"i{partition}"] = float(n)
        report = ingest_ratings.run(context)
        assert report.counts.accepted == report.counts.landed == 2
        assert current(context) == sent
        assert context.tables.ratings.read().count() == packed_ratings(context) == len(sent)
        assert len(ledger(context)) == len(sent)
        return list(report.notes)

    assert send_and_run(1) == []
    before, kept = context.tables.versions(), sorted(checkpoint(context).rglob("*"))
    down = f"127.0.0.1:{free_port()}"
    settings = {"kafka.bootstrap_servers": down, "kafka.topic": "steady", "kafka.timeout_seconds": 2.0}
    own = arguments(tmp_path / "warehouse", tmp_path / "landing", {"warehouse.buckets": 2, **settings})
    assert ingest_ratings.main(own) == 1
    assert f"topic 'steady': Kafka at {down} did not answer within 2 s" in capsys.readouterr().err
    assert context.tables.versions() == before | {"job_runs": before["job_runs"] + 1}
    assert sorted(checkpoint(context).rglob("*")) == kept
    assert send_and_run(2) == []

    shutil.rmtree(Path(context.settings.warehouse.root, "streams"))
    [note] = send_and_run(3)
    assert "the stream's checkpoint is not there; a new one begins where the ledger ends" in note
    for name in ("offsets", "commits"):
        file = max((checkpoint(context) / name).glob("[0-9]*"))
        file.write_bytes(b"")
        [note] = send_and_run(len(sent) // 2 + 1)
        assert f"{name}/{file.name} is torn" in note
    ahead = checkpoint(context)
    last = max((ahead / "offsets").glob("[0-9]*"))
    last.write_text(last.read_text().replace('{"0":5,', '{"0":9,'))
    (last.parent / f".{last.name}.crc").unlink()
    [note] = send_and_run(len(sent) // 2 + 1)
    assert "is not where the ledger ends" in note
    assert send_and_run(len(sent) // 2 + 1) == []


def test_case_30_a_broker_that_is_killed_in_the_middle_of_a_batch_delays_it_or_fails_it_and_costs_nothing(
    broker: Kafka, open_warehouse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_warehouse("killed", kafka={"max_offsets_per_batch": 4, "timeout_seconds": 5.0})
    broker.create_topic("killed")
    broker.send("killed", [rating(f"u{n}", "i1", 5, DAY) for n in range(11)])
    batches = iter((lambda: None, lambda: (broker.kill(), broker.start()), broker.kill))

    def break_it() -> None:
        next(batches)()

    with monkeypatch.context() as patch:
        patch.setattr(streaming, "pause_at", at("kafka:batch_begins", break_it))
        with pytest.raises(
            BrokerError, match=r"topic 'killed'.* did not answer within 5 s.*it goes on where it stopped"
        ):
            ingest_ratings.run(context)
    broker.start()
    assert ledger(context) == [("kafka:killed/0/0-3", 4, 4, 0, 0), ("kafka:killed/0/4-7", 4, 4, 0, 0)]
    assert packed_ratings(context) == 8
    ingest_ratings.run(context)
    assert ledger(context)[2:] == [("kafka:killed/0/8-10", 3, 3, 0, 0)]
    assert current(context) == {(f"u{n}", "i1"): 5.0 for n in range(11)}


def test_case_31_messages_that_are_gone_stop_the_run_with_their_offsets_until_somebody_accepts_the_loss(
    broker: Kafka, open_warehouse: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_warehouse("aged")
    broker.create_topic("aged")
    broker.send("aged", [rating(f"u{n}", "i1", 5, DAY) for n in range(2)])
    ingest_ratings.run(context)
    broker.send("aged", [rating(f"u{n}", "i1", 5, DAY) for n in range(2, 6)])
    broker.delete_before("aged", 0, 5)
    land_csv(tmp_path / "landing", "a.csv", f"file,i1,8,{DAY}")
    for _ in range(2):
        with pytest.raises(MessagesLostError, match=r"partition 0 offsets 2 to 4 \(3\).*--new-generation"):
            ingest_ratings.run(context)
        assert set(current(context)) == {("u0", "i1"), ("u1", "i1"), ("file", "i1")}
        assert packed_ratings(context) == 3  # what the other source brought does not wait
    report = ingest_ratings.run(context, new_generation=True)
    assert report.notes == ("left out for good: partition 0 offsets 2 to 4 (3)",)
    assert ledger(context)[2:] == [("kafka:aged/0/2-4", 0, 0, 0, 0), ("kafka:aged/0/5-5", 1, 1, 0, 0)]

    broker.send("aged", [rating(f"u{n}", "i1", 5, DAY) for n in range(6, 9)])
    with monkeypatch.context() as patch:  # they go while the run is on
        patch.setattr(streaming, "pause_at", at("kafka:batch_begins", lambda: broker.delete_before("aged", 0, 8)))
        with pytest.raises(MessagesLostError, match="deleted while they were read"):
            ingest_ratings.run(context)
    with pytest.raises(MessagesLostError, match=r"partition 0 offsets 6 to 7 \(2\)"):
        ingest_ratings.run(context)
    assert len(ledger(context)) == 4


def test_case_32_a_topic_that_was_made_again_is_not_read_until_somebody_says_so(
    broker: Kafka, open_warehouse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_warehouse("again")

    def make_again(first: int, n: int) -> None:
        if first:
            broker.delete_topic("again")
        broker.create_topic("again")
        broker.send("again", [rating(f"u{first + own}", "i1", 5, DAY) for own in range(n)])

    make_again(0, 2)
    ingest_ratings.run(context)
    make_again(2, 3)  # as far as the old one and further: by its offsets alone it could be the old one
    before = context.tables.versions()
    with pytest.raises(MessagesLostError, match=r"it was deleted and made again .*--new-generation"):
        ingest_ratings.run(context)
    assert context.tables.versions() == before
    report = ingest_ratings.run(context, new_generation=True)
    assert report.notes == ("topic 'again' was made again and is read from its beginning",)
    assert ledger(context) == [("kafka:again/0/0-1", 2, 2, 0, 0), ("kafka:again/0/0-2", 3, 3, 0, 0)]

    broker.send("again", ["poison"])
    with monkeypatch.context() as patch:  # while the run is on, after the messages were read
        patch.setattr(ingestion, "pause_at", at("ingest:after_quarantine", lambda: make_again(5, 5)))
        with pytest.raises(MessagesLostError, match="deleted and made again"):
            ingest_ratings.run(context)
    with pytest.raises(MessagesLostError, match="deleted and made again"):
        ingest_ratings.run(context)  # the batch that was interrupted
    assert len(ledger(context)) == 2
    ingest_ratings.run(context, new_generation=True)
    assert ledger(context)[2:] == [("kafka:again/0/0-4", 5, 5, 0, 0)]
    assert context.tables.quarantine.read().count() == 0
    assert set(current(context)) == {(f"u{n}", "i1") for n in range(10)}


class KilledError(Exception):
    """What stands for a SIGKILL: whatever comes after it is not done."""


def test_a_run_that_ends_between_two_commits_and_loses_its_checkpoint_leaves_the_tables_of_an_undisturbed_one(
    spark: SparkSession, broker: Kafka, open_warehouse: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cases 18 to 20."""
    broker.create_topic("cut", 2)
    for partition in range(2):
        user = f"u{partition}"
        broker.send("cut", [rating(user, "i1", 5, DAY), "poison", *[rating(user, "i2", 5, DAY)] * 2], partition)
    undisturbed = open_warehouse("cut", "undisturbed")
    ingest_ratings.run(undisturbed)
    expected = hash_tables(spark, undisturbed.settings.warehouse.root)
    assert {name: found[0] for name, found in expected.items() if name != "user_blocks"} == {
        "ratings": 4,
        "quarantine": 2,
        "ingest_ledger": 2,
        "items": 2,
    }

    def die() -> None:
        raise KilledError

    for point, loses_checkpoint in (("quarantine", False), ("ratings", True), ("ledger", False)):
        context = open_warehouse("cut", point)
        with monkeypatch.context() as patch:
            patch.setattr(ingestion, "pause_at", at(f"ingest:after_{point}", die))
            with pytest.raises(KilledError):
                ingest_ratings.run(context)
        if loses_checkpoint:
            shutil.rmtree(Path(context.settings.warehouse.root, "streams"))
        ingest_ratings.run(context)
        assert hash_tables(spark, context.settings.warehouse.root) == expected, point


def test_a_continuous_run_takes_in_what_comes_lets_other_jobs_in_between_and_stops_in_order(
    broker: Kafka, open_warehouse: Open, tmp_path: Path
) -> None:
    context = open_warehouse("flow", kafka={"batch_seconds": 0.5, "starting_offsets": "latest"})
    broker.create_topic("flow")
    broker.send("flow", [rating("before", "i1", 5, DAY)])
    stop, ended = threading.Event(), []
    thread = threading.Thread(target=lambda: ended.append(ingest_ratings.follow(context, stop)))
    thread.start()

    def wait_for(rows: int) -> None:
        deadline = time.monotonic() + 120
        while context.tables.ratings.read().count() < rows or packed_ratings(context) < rows:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    try:
        while context.tables.ledger.version() == 0:  # until then the end of the topic is not decided
            assert thread.is_alive()
            time.sleep(0.1)
        broker.send("flow", [rating("u1", "i1", 5, DAY)])
        wait_for(1)
        land_csv(tmp_path / "landing", "a.csv", f"file,i1,8,{DAY}")
        own = {"warehouse.buckets": 2, "warehouse.users_per_block": 2, "ingest.max_bad_share": 1.0}
        while (code := ingest_ratings.main(arguments(tmp_path / "warehouse", tmp_path / "landing", own))) == 5:
            pass
        assert code == 0
        broker.send("flow", [rating("u2", "i1", 5, DAY)])
        wait_for(3)
    finally:
        stop.set()
        thread.join(60)
    [report] = ended
    assert (report.batches, report.ranges, report.counts.accepted) == (2, 2, 2)
    assert report.notes == ("left out for good: partition 0 offsets 0 to 0 (1)",)
    assert ledger(context) == [
        ("kafka:flow/0/0-0", 0, 0, 0, 0),
        ("kafka:flow/0/1-1", 1, 1, 0, 0),
        ("a.csv", 1, 1, 0, 0),
        ("kafka:flow/0/2-2", 1, 1, 0, 0),
    ]
    jobs = context.tables.job_runs.read().select("outcome").collect()
    assert [row.outcome for row in jobs] == ["ok", "ok", "ok"]


def test_the_receipt_of_an_erasure_says_by_when_the_brokers_have_dropped_what_was_sent(
    broker: Kafka, open_warehouse: Open
) -> None:
    days = timedelta(days=10)
    half = str(days // timedelta(milliseconds=2))
    broker.create_topic("forgets", config={"retention.ms": half, "segment.ms": half})
    context = open_warehouse("forgets")
    broker.send("forgets", [rating("u1", "i1", 8, DAY), rating("u2", "i1", 7, DAY)])
    ingest_ratings.run(context)
    began = datetime.now(UTC)
    receipt = forget_user.run(context, frozenset({"u1"})).receipt
    assert receipt.to_remove == {}
    until = re.search(r"drop them by the end of (\S+) UTC", receipt.to_come["topic forgets"])
    assert until is not None
    dropped = date.fromisoformat(until[1])
    # Messages may be dated an hour ahead, and a broker takes minutes.
    assert (began + days).date() <= dropped <= (datetime.now(UTC) + days + timedelta(hours=1.5)).date()

    broker.send("forgets", [rating("u1", "i2", 8, DAY)])
    ingest_ratings.run(context)
    assert current(context) == {("u2", "i1"): 7.0}


def test_a_topic_that_keeps_messages_for_good_is_left_to_its_owner(
    spark: SparkSession, broker: Kafka, open_warehouse: Open
) -> None:
    ways = {
        "keeps": {"retention.ms": "-1"},
        "compacts": {"cleanup.policy": "compact"},
        "outlives-us": {"retention.ms": str(2**63 - 1)},
    }
    for topic, config in ways.items():
        broker.create_topic(topic, config=config)
    context = open_warehouse("keeps")
    receipt = forget_user.run(context, frozenset({"u1"})).receipt
    assert "for good" in receipt.to_remove["topic keeps"]
    for topic in ways:
        assert Topic(spark, context.settings.kafka.model_copy(update={"topic": topic})).kept_ms() is None, topic


def test_a_broker_that_cannot_be_asked_ends_no_erasure_and_is_named(open_warehouse: Open) -> None:
    own = {"bootstrap_servers": f"127.0.0.1:{free_port()}", "timeout_seconds": 2.0}
    receipt = forget_user.run(open_warehouse("silent", kafka=own), frozenset({"u1"})).receipt
    assert "did not answer within 2 s" in receipt.to_remove["topic silent"]
    assert receipt.ended is not None


def test_a_client_that_the_brokers_refuse_is_told_what_its_user_needs(broker: Kafka, open_warehouse: Open) -> None:
    broker.create_topic("closed")
    broker.send("closed", [rating("u1", "i1", 8, DAY)])
    broker.forbid("closed", AclOperation.READ, AclOperation.DESCRIBE_CONFIGS)
    context = open_warehouse("closed")
    refused = r"refuses this client \(TopicAuthorizationException\).*Describe, DescribeConfigs and Read"
    with pytest.raises(UsageError, match=refused):
        ingest_ratings.run(context)
    receipt = forget_user.run(context, frozenset({"u1"})).receipt
    assert re.search(refused, receipt.to_remove["topic closed"])
    assert receipt.ended is not None
