"""What was refused is listed, put right and replayed; every row stays accounted for once."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf

from jobs import ingest_ratings, quarantine
from jobs.runner import JobContext, make_context
from recsys import columns as c
from recsys.batches import claim_file, claims_folder
from recsys.errors import UsageError
from recsys.ingestion import Ingestion, Messages
from recsys.ratings.kafka import OffsetRange
from recsys.ratings.ledger import REPLAYED
from recsys.ratings.quarantine import Corrections, Selection
from recsys.replay import NO_FILE, NOT_KEPT, NOT_READ
from recsys.session import ROOT
from recsys.store.suppressed import suppress
from recsys.user_blocks import bring_blocks_up_to_date
from tests.jobs.fingerprint import INGESTED, hash_each, hash_tables
from tests.jobs.kills import kill_at_points
from tests.jobs.warehouses import SMALL, arguments, copy_warehouse, land_csv, make_settings

DAY = 1_700_000_000
NOTHING, EVERYTHING = Corrections(), Selection()
Open = Callable[..., JobContext]


@pytest.fixture(scope="module")
def empty(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables that nothing was ever written to."""
    root = tmp_path_factory.mktemp("quarantine") / "new"
    make_context(spark, make_settings(root, root.with_name("none")))
    return root


@pytest.fixture
def open_warehouse(spark: SparkSession, empty: Path, tmp_path: Path) -> Open:
    def open_it(name: str = "warehouse", contract: Path | None = None) -> JobContext:
        settings = make_settings(tmp_path / name, tmp_path / "landing")
        context = copy_warehouse(spark, empty, settings)
        return context if contract is None else under(context, contract)

    (tmp_path / "landing").mkdir()
    return open_it


def under(context: JobContext, contract: Path) -> JobContext:
    return replace(context, settings=context.settings.model_copy(update={"contract": str(contract)}))


def corrected_contract(folder: Path) -> Path:
    """The contract for ratings that allows values up to 20 and knows files of tabs."""
    content = yaml.safe_load((ROOT / "conf/contracts/ratings.yaml").read_text())
    [schema] = content["schema"]
    [value] = [own for own in schema["properties"] if own["name"] == "value"]
    value["logicalTypeOptions"]["maximum"] = 20
    [formats] = [own for own in schema["customProperties"] if own["property"] == "formats"]
    names = ["user_id", "item_id", "value", "event_time"]
    formats["value"][".tsv"] = {"reader": "fields", "delimiter": "\t", "fields": names}
    file = folder / "corrected.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def land_all_formats(landing: Path) -> None:
    """Values above 10 in every format, a file of an ending that the contract has not, rows that nothing puts right."""
    land_csv(
        landing,
        "a.csv",
        *(f"u1,i{n},8,{DAY}" for n in (1, 2, 3)),
        f"u2,i1,12,{DAY}",
        f"u2,i1,12,{DAY}",  # the same event
        f"u3,i2,five,{DAY}",
    )
    objects = [{"user": f"u{n}", "item": "i1", "rating": value, "time": DAY} for n, value in ((4, 15), (5, "five"))]
    (landing / "b.jsonl").write_text("".join(f"{json.dumps(own)}\n" for own in objects))
    (landing / "c.dat").write_text(f"u6::i1::11::{DAY}\nu6::i2::3::{DAY}\nu7::i1\n")
    time = pa.array([DAY * 10**6 + 123_456], pa.timestamp("us", "UTC"))
    row = {"user_id": ["u8"], "item_id": ["i2"], "rating": [12.5], "timestamp": time}
    pq.write_table(pa.table(row), landing / "d.parquet")
    (landing / "e.tsv").write_text(f"u9\ti3\t9\t{DAY}\nu10\ti3\t19\t{DAY}\nu10\t\t1\t{DAY}\n")


def sums(context: JobContext) -> dict[str, tuple[int, ...]]:
    """Source → landed, accepted, duplicate, quarantined over all entries; the law holds in every entry."""
    found: dict[str, tuple[int, ...]] = defaultdict(lambda: (0, 0, 0, 0))
    for row in context.tables.ledger.read().collect():
        counts = (row.landed, row.accepted, row.duplicate, row.quarantined)
        assert counts[0] == sum(counts[1:]), row
        found[row.source] = tuple(map(sum, zip(found[row.source], counts, strict=True)))
    return dict(found)


def rules(context: JobContext) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in context.tables.quarantine.read().select(c.SOURCE, c.RULES).collect():
        found.setdefault(row.source, []).extend(row.rules)
    return {source: sorted(names) for source, names in found.items()}


def hashes(context: JobContext) -> dict[str, tuple[int, int]]:
    """Ratings, refused rows and blocks as hashes, without the numbers of batches."""
    tables = context.tables
    hashed = (tables.ratings, tables.quarantine, tables.items, tables.user_blocks)
    return hash_each({table.name: table.read() for table in hashed}, leave_out=[c.BATCH, c.THROUGH_BATCH])


def require_counts_of_quarantine(context: JobContext) -> None:
    """What the ledger says is in quarantine is there, source by source."""
    rows = context.tables.quarantine.read().groupBy(c.SOURCE).count().collect()
    assert {row[0]: row[1] for row in rows} == {name: n[3] for name, n in sums(context).items() if n[3]}


def test_after_a_replay_under_a_corrected_contract_the_tables_are_as_if_it_had_been_right_from_the_beginning(
    open_warehouse: Open, tmp_path: Path
) -> None:
    land_all_formats(tmp_path / "landing")
    columns = {
        "user_id": [f"p{n}" for n in range(5000)],
        "item_id": ["i1"] * 5000,
        "timestamp": [DAY] * 5000,
        "rating": [n % 10 / 1 for n in range(5000)],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    damaged = bytearray(sink.getvalue().to_pybytes())
    damaged[400:800] = bytes(400)  # inside a page: the footer is whole
    (tmp_path / "landing" / "f.parquet").write_bytes(bytes(damaged))
    contract = corrected_contract(tmp_path)
    right = open_warehouse("right", contract)
    ingest_ratings.run(right)
    context = open_warehouse()
    ingest_ratings.run(context)
    before = sums(context)
    assert before["a.csv"] == (6, 3, 0, 3)
    assert before["e.tsv"] == (1, 0, 0, 1), "a file that cannot be read stands as one row"

    listed = {own.rule: own for own in quarantine.list_rules(context, EVERYTHING, samples=1)}
    found = {rule: own.rows for rule, own in listed.items()}
    of_files = {"unknown_format": 1, "unreadable": 1}
    assert found == of_files | {"value_out_of_range": 5, "value_not_a_number": 2, "broken_line": 1}
    assert listed["value_out_of_range"].sources[0] == ("a.csv", 1, 2, None, None)
    assert listed["value_out_of_range"].n_sources == 4
    assert listed["broken_line"].samples == ("u7::i1",)

    context = under(context, contract)
    versions = context.tables.versions()
    tried = quarantine.run(context, EVERYTHING, NOTHING, dry_run=True).outcome
    assert context.tables.versions() == versions
    report = quarantine.run(context, EVERYTHING, NOTHING)
    assert tried.counts == report.outcome.counts
    assert tried.refused == report.outcome.refused == {"value_not_a_number": 2, "broken_line": 1, "missing_item_id": 1}
    assert (tried.taken, report.outcome.taken) == (9, 9)
    assert tried.left == report.outcome.left == {NOT_READ: 1}, "it is damaged still"
    assert report.outcome.counts.accepted == 4 + 2
    assert report.outcome.counts.duplicate == 1
    assert hashes(context) == hashes(right)
    assert (
        sums(context)
        == sums(right)
        == before
        | {
            "a.csv": (6, 4, 1, 1),
            "b.jsonl": (2, 1, 0, 1),
            "c.dat": (3, 2, 0, 1),
            "d.parquet": (1, 1, 0, 0),
            "e.tsv": (3, 2, 0, 1),
        }
    )
    require_counts_of_quarantine(context)
    assert not list(Path(claims_folder(context.tables).removeprefix("file:")).iterdir())

    versions = context.tables.versions()
    again = quarantine.run(context, EVERYTHING, NOTHING).outcome
    assert (again.counts.accepted, again.batch) == (0, None)
    assert context.tables.versions() == versions, "nothing is written for rows that are refused for the same reasons"
    (tmp_path / "landing" / "copy.tsv").write_bytes((tmp_path / "landing" / "e.tsv").read_bytes())
    assert ingest_ratings.run(context).counts.duplicate == 3, "a copy of a file that a replay took in is one"


def test_corrections_of_texts_and_names_are_made_before_the_check_and_a_part_is_replayed_alone(
    open_warehouse: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    landing = tmp_path / "landing"
    land_csv(landing, "a.csv", f"u1,i1,five,{DAY}", f"u2,,3,{DAY}", f"u3,i1,3,{DAY}")
    (landing / "b.csv").write_text(f"user_id,item_id,stars,timestamp\nu4,i1,five,{DAY}\nu5,i2,2,{DAY}\n")
    land_csv(landing, "gone.csv", f"u6,i1,five,{DAY}")
    context = open_warehouse()
    ingest_ratings.run(context)
    assert sums(context)["b.csv"] == (3, 0, 0, 3), "with its header, which nobody could tell from a row"
    (landing / "gone.csv").unlink()
    corrections = tmp_path / "map.yaml"
    corrections.write_text('rename: {stars: value}\nvalue: {"five": "5"}\n')
    own_arguments = ["--warehouse", str(tmp_path / "warehouse"), f"--set=landing.path={landing}"]

    assert quarantine.main([*own_arguments, "--replay"]) == 2, "nobody replays everything by mistake"
    assert "--all" in capsys.readouterr().err
    assert quarantine.main([*own_arguments, "--samples", "1", "--rule", "value_not_a_number"]) == 0
    said = capsys.readouterr().out
    assert f"u1,i1,five,{DAY}" in said
    assert "missing_item_id" not in said
    part = [*own_arguments, "--replay", "--source", "b.*", "--map", str(corrections)]
    assert quarantine.main(part) == 0
    assert "3 rows of quarantine taken up: 2 accepted" in capsys.readouterr().out
    assert sums(context)["b.csv"] == (2, 2, 0, 0), "the header is no row any more"
    assert rules(context) == {"a.csv": ["missing_item_id", "value_not_a_number"], "gone.csv": ["value_not_a_number"]}

    number = Corrections(values={"value": {"five": "5"}})
    outcome = quarantine.run(context, EVERYTHING, number).outcome
    assert (outcome.counts.accepted, outcome.left) == (1, {NO_FILE: 1})
    header = replace(number, header="user_id,item_id,rating,timestamp")
    assert quarantine.run(context, Selection(batches=(1,)), header).outcome.counts.accepted == 1
    values = {row.user_id: row.value for row in context.tables.ratings.read().collect()}
    assert values == {"u1": 5.0, "u3": 3.0, "u4": 5.0, "u5": 2.0, "u6": 5.0}
    assert rules(context) == {"a.csv": ["missing_item_id"]}
    require_counts_of_quarantine(context)
    runs = context.tables.job_runs.read().where(sf.col(c.JOB) == quarantine.NAME).collect()
    assert [row.counts["accepted"] for row in runs] == [2]
    assert not [row for row in runs if "u4" in row.message or "u4" in row.details]


def test_messages_are_replayed_by_offset_and_what_was_not_kept_whole_stays(
    spark: SparkSession, open_warehouse: Open
) -> None:
    context = open_warehouse()
    texts = [
        f'{{"user": "u{n}", "item": "i1", "rating": {value}, "time": {DAY}}}'
        for n, value in enumerate(['"five"', '"five"', "4", '"five"'])
    ]
    rows = [(0, n, None, bytearray(text.encode())) for n, text in enumerate(texts)]
    rows.append(
        (0, 4, None, bytearray(b'{"user": "u4", "item": "i1", "rating": 3, "note": "\xff", "time": 1700000000}'))
    )
    messages = spark.createDataFrame(rows, "partition INT, offset LONG, key BINARY, value BINARY")
    known = OffsetRange("ratings", "id-1", 0, 0, 5)
    ingestion = Ingestion(spark, context.tables, context.settings)
    ingestion.take_in_messages(Messages(messages, [known], lambda: None))
    bring_blocks_up_to_date(context.tables, through_batch=1)
    assert sums(context) == {known.source: (5, 1, 0, 4)}
    number = Corrections(values={"value": {"five": "5"}})

    part = Selection(sources=("kafka:ratings/0/*",), offsets=(1, 2))
    assert quarantine.run(context, part, number).outcome.counts.accepted == 1
    left = context.tables.quarantine.read().orderBy(c.OFFSET).collect()
    assert [row.offset for row in left] == [0, 3, 4]
    outcome = quarantine.run(context, EVERYTHING, number).outcome
    assert outcome.counts.accepted == 2
    assert outcome.left == {NOT_KEPT: 1}
    assert sums(context) == {known.source: (5, 4, 0, 1)}
    seen = Ingestion(spark, context.tables, context.settings).seen
    assert seen.next_offsets("ratings", "id-1") == {0: 5}
    assert seen.last_batch == 3


def test_case_92_a_forgotten_users_refused_rows_are_not_accepted_by_a_replay_and_their_text_goes(
    open_warehouse: Open, tmp_path: Path
) -> None:
    context = open_warehouse()
    land_csv(tmp_path / "landing", "a.csv", f"u1,i1,12,{DAY}", f"u2,i1,12,{DAY}", f"u3,i1,1,{DAY}")
    ingest_ratings.run(context)
    suppress(context.tables, ["u1"])  # what an erasure leaves that is killed before it comes to quarantine
    context = under(context, corrected_contract(tmp_path))
    staged = f"{claims_folder(context.tables)}/replay-0"
    context.files.write(f"{staged}/part", b"u1,i1,12")  # of a replay that was killed before its claim

    outcome = quarantine.run(context, EVERYTHING, NOTHING).outcome
    assert outcome.counts.accepted == 1
    assert outcome.refused == {"suppressed_user": 1}
    assert not context.files.exists(staged)
    assert {row.user_id for row in context.tables.ratings.read().collect()} == {"u2", "u3"}
    [row] = context.tables.quarantine.read().collect()
    assert (row.raw, row.rules) == (None, ["suppressed_user"])
    assert quarantine.run(context, EVERYTHING, NOTHING).outcome.left == {NOT_KEPT: 1}
    assert sums(context) == {"a.csv": (3, 2, 0, 1)}


@pytest.mark.long
def test_a_replay_that_is_killed_anywhere_and_finished_by_either_job_ends_with_the_tables_of_an_undisturbed_one(
    spark: SparkSession, tmp_path: Path
) -> None:
    landing, warehouse, undisturbed = tmp_path / "landing", tmp_path / "warehouse", tmp_path / "undisturbed"
    settings: dict[str, object] = {**SMALL}
    landing.mkdir()
    land_all_formats(landing)
    assert ingest_ratings.main(arguments(warehouse, landing, settings)) == 0
    shutil.copytree(warehouse, undisturbed)
    settings["contract"] = str(corrected_contract(tmp_path))
    replaying = ["--replay", "--all"]
    assert quarantine.main([*arguments(undisturbed, landing, settings), *replaying]) == 0
    expected = hash_tables(spark, str(undisturbed))
    assert {name: found[0] for name, found in expected.items() if name != "user_blocks"} == {
        "ratings": 4 + 6,
        "quarantine": 4,
        "ingest_ledger": 5 + 5,
        "items": 3,
    }
    points = [f"replay:after_{point}" for point in ("claim", "ratings", "quarantine")]
    copies = kill_at_points(
        "jobs.quarantine", [*arguments(warehouse, landing, settings), *replaying], warehouse, points
    )

    number = tmp_path / "map.yaml"
    number.write_text('value: {"12": "1"}\n')  # other corrections do not change what is under way
    for point, copy in copies.items():
        by_ingest = copy.with_name(f"{copy.name}-by-ingest")
        shutil.copytree(copy, by_ingest)
        own = arguments(copy, landing, settings)
        if point == points[0]:
            assert quarantine.main([*own, *replaying, "--dry-run"]) == 2, "quarantine is about to change"
        assert quarantine.main([*own, *replaying, "--map", str(number)]) == 0, point
        assert hash_tables(spark, str(copy)) == expected, point
        assert ingest_ratings.main(arguments(by_ingest, landing, settings)) == 0, point
        assert hash_tables(spark, str(by_ingest), INGESTED) == expected, point
        for warehouse in (copy, by_ingest):
            assert not list((warehouse / "claims").iterdir())


def test_an_interrupted_ingestion_is_not_finished_by_a_replay(open_warehouse: Open, tmp_path: Path) -> None:
    context = open_warehouse()
    land_csv(tmp_path / "landing", "a.csv", f"u1,i1,1,{DAY}")
    claim = {"batch": 1, "claimed_us": 1, "entries": []}
    context.files.write(claim_file(context.tables), json.dumps(claim).encode())
    with pytest.raises(UsageError, match="Run ingest_ratings"):
        quarantine.run(context, EVERYTHING, NOTHING)
    assert context.tables.ledger.read().where(sf.col(c.STATE) == REPLAYED).isEmpty()
