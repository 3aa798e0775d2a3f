"""Cases 1 to 36 in any order: whatever lands, is killed, replayed or erased, the tables are what a model says.

The model is Python's dicts and lists: the newest event of a pair counts, a batch takes an event once, a row is
accounted for once, a forgotten user stays away. Which files make a batch is the system's own choice, and read from its
ledger.

``RECSYS_MACHINE=50x20`` runs 50 sequences of 20 steps, other ones every time; without it a few that are always the
same.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from pyspark.sql import SparkSession

from jobs import forget_user, ingest_ratings, quarantine, repair_tables
from jobs.runner import JobContext, hold_locks, make_context
from recsys import columns as c
from recsys.batches import claim_file, read_claim, read_entries
from recsys.blocks.current import current_ratings
from recsys.blocks.recent import read_ratings
from recsys.compaction import compact_ratings
from recsys.errors import UsageError
from recsys.ratings.ledger import ERASED, REPLAYED, Counts, Entry
from recsys.ratings.quarantine import Corrections, Selection
from recsys.store import pause
from recsys.store.items import read_items
from recsys.store.locks import LISTS, MODELS, TABLES
from recsys.user_blocks import read_user_blocks
from tests.jobs.warehouses import make_settings

KEEPER = "keeper"  # is never forgotten, and first in every file: none is empty, and no two are alike by chance
USERS = ("ann", "bob", "eve")
ITEMS = ("i0", "i1", "i2")
EVENT_IDS = ("e0", "e1", "e2")
DAY = 1_700_000_000
UNREADABLE, MEANT = "abc", 4.0  # what a value was sent as, and what a replay makes of it
TOO_LARGE = 99.0  # which nothing puts right
INGEST_POINTS = (
    "ingest:after_listing",
    "ingest:after_claim",
    "commit:quarantine",
    "ingest:after_quarantine",
    "commit:ratings",
    "ingest:after_ratings",
    "commit:items",
    "ingest:after_items",
    "commit:ingest_ledger",
    "ingest:after_ledger",
    "commit:user_blocks",
    "ingest:after_blocks",
)
REPLAY_POINTS = (
    "replay:after_claim",
    "replay:after_ratings",
    "commit:quarantine",
    "replay:after_quarantine",
    *INGEST_POINTS[6:],
)
FORGET_POINTS = (
    "forget:after_suppression",
    "forget:after_ratings",
    "forget:after_user_blocks",
    "forget:after_quarantine",
    "forget:after_recommendations",
    "forget:before_landing",
    "forget:after_landed_rows",
)
MAINTAIN_POINTS = ("maintain:before_commit", "maintain:after_commit")


class Killed(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


class _Deadly:
    """Stands for the clock by which a job waits at a pause point."""

    def sleep(self, _: float) -> None:
        raise Killed


@dataclass(frozen=True)
class Sent:
    """A row as a producer sends it; without a value it takes the rating back."""

    user: str
    item: str
    value: float | str | None
    time: int
    event_id: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.user, self.item, self.event_id

    @property
    def order(self) -> tuple[int, bytes, float]:
        """Which event of a pair counts: the greatest."""
        assert not isinstance(self.value, str)
        return self.time, self.event_id.encode(), -1.0 if self.value is None else self.value

    @property
    def is_good(self) -> bool:
        return self.value is None or (not isinstance(self.value, str) and self.value <= 10)

    def to_line(self) -> str:
        names = {"user": self.user, "item": self.item, "time": self.time, "event_id": self.event_id}
        return json.dumps({**names, "rating": self.value, "withdrawn": self.value is None})


File = tuple[Sent, ...]


def without(file: File, user: str) -> File:
    return tuple(sent for sent in file if sent.user != user)


@dataclass
class Refused:
    """A row of quarantine; without its text once its user is forgotten."""

    sent: Sent
    has_text: bool


@dataclass
class Model:
    """What landing folder and tables hold."""

    landed: dict[str, File] = field(default_factory=dict)
    accepted: list[Sent] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    forgotten: set[str] = field(default_factory=set)
    taken: dict[File, int] = field(default_factory=dict)  # rows of a content when it was read

    def take_in(self, files: Sequence[str]) -> None:
        """One batch, of these files."""
        read: list[Sent] = []
        for file in (self.landed[name] for name in sorted(files)):
            if file in self.taken:
                self.counts += Counts(landed=self.taken[file], duplicate=self.taken[file])
            else:
                self.taken[file] = len(file)
                read.extend(file)
        self.refused += self._check(read)

    def replay(self) -> None:
        """One batch, of everything that was refused and is still known."""
        kept = [own.sent for own in self.refused if own.has_text]
        self.refused = [own for own in self.refused if not own.has_text]
        self.counts += Counts(landed=-len(kept), quarantined=-len(kept))
        self.refused += self._check([replace(sent, value=MEANT) if sent.value == UNREADABLE else sent for sent in kept])

    def _check(self, rows: Sequence[Sent]) -> list[Refused]:
        """Accept the good ones, each event once; the others."""
        good = [sent for sent in rows if sent.is_good and sent.user not in self.forgotten]
        events: dict[tuple[str, str, str], Sent] = {}
        for sent in good:
            events[sent.key] = max(sent, events.get(sent.key, sent), key=lambda own: own.order)
        self.accepted += events.values()
        bad = [sent for sent in rows if not sent.is_good or sent.user in self.forgotten]
        self.counts += Counts(len(rows), len(events), len(good) - len(events), len(bad))
        return [Refused(sent, sent.user not in self.forgotten) for sent in bad]

    def forget(self, user: str) -> None:
        self.forgotten.add(user)
        self.accepted = [sent for sent in self.accepted if sent.user != user]
        for own in self.refused:
            own.has_text = own.has_text and own.sent.user != user
        self.landed = {name: without(file, user) for name, file in self.landed.items()}

    def current(self) -> dict[tuple[str, str], float]:
        newest: dict[tuple[str, str], Sent] = {}
        for sent in self.accepted:
            pair = sent.user, sent.item
            newest[pair] = max(sent, newest.get(pair, sent), key=lambda own: own.order)
        return {pair: float(sent.value) for pair, sent in newest.items() if sent.value is not None}


class Machine(RuleBasedStateMachine):
    """The jobs on a warehouse, and the model beside them."""

    def __init__(self, context: JobContext, die_at: Callable[[str, Callable[[], None]], bool]) -> None:
        super().__init__()
        self._context, self._die_at = context, die_at
        self._landing = Path(str(context.settings.landing.path))
        self._model = Model()
        self._archive: list[File] = []  # of the producer, who may send a file again as it was
        self._seen: set[int] = set()  # batches that the model has
        self._clock, self._names = count(), count()
        self._half_forgotten: str | None = None
        self._blocks_are_behind = False

    def _say(self, step: str) -> None:
        """For whoever looks into a failure: what was done, and what stood open then."""
        print(f"{step} (open: {self._open_batch()}, half forgotten: {self._half_forgotten})")

    @rule(
        rows=st.lists(
            st.builds(
                Sent,
                user=st.sampled_from(USERS),
                item=st.sampled_from(ITEMS),
                value=st.sampled_from([UNREADABLE, 2.5, 5.0, 0.0, None, UNREADABLE, TOO_LARGE]),
                time=st.integers(DAY, DAY + 3),
                event_id=st.sampled_from(EVENT_IDS),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def land(self, rows: list[Sent]) -> None:
        """A file, of events that may be late, tie with others, repeat each other or be bad."""
        self._say(f"land {rows}")
        self._put((self._mark(), *rows))

    @rule(user=st.sampled_from(USERS), item=st.sampled_from(ITEMS), value=st.sampled_from([None, 3.0, 4.5]))
    def correct_or_withdraw(self, user: str, item: str, value: float | None) -> None:
        """The newest event of its pair."""
        newest = Sent(user, item, value, DAY + 10 + next(self._clock), "newest")
        self._say(f"correct or withdraw {newest}")
        self._put((self._mark(), newest))

    @precondition(lambda self: self._archive)
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        """A file again under another name, as it was when it first landed."""
        number = data.draw(st.integers(0, len(self._archive) - 1))
        self._say(f"redeliver {number}")
        self._put(self._archive[number])

    @precondition(lambda self: self._model.landed)
    @rule()
    def ingest(self) -> None:
        """Afterwards nothing is left in the landing folder that is not in the tables."""
        self._say("ingest")
        self._ingest()
        claimed = {own.source for own in read_entries(self._context.tables.ledger)}
        assert claimed == set(self._model.landed)
        self._check()

    @precondition(lambda self: self._model.landed)
    @rule(point=st.sampled_from(INGEST_POINTS))
    def die_while_ingesting(self, point: str) -> None:
        self._say(f"die while ingesting, {point}")
        self._die_at(point, self._ingest)
        self._blocks_are_behind = True
        self._catch_up()
        self._check()

    @precondition(lambda self: self._model.refused)
    @rule(point=st.sampled_from([None, None, *REPLAY_POINTS]))
    def replay(self, point: str | None) -> None:
        """Everything, with what was meant by a text; refused while a batch is open that is none of a replay."""
        self._say(f"replay, {point}")
        if self._open_batch() == "ingestion":
            with pytest.raises(UsageError, match="interrupted"):
                self._replay()
            return
        was_killed = point is not None and self._die_at(point, self._replay)
        if point is None:
            self._replay()
        self._blocks_are_behind = was_killed
        self._catch_up()
        self._check()

    @precondition(lambda self: self._model.accepted)
    @rule(user=st.sampled_from(USERS), point=st.sampled_from([None, None, *FORGET_POINTS]))
    def erase(self, user: str, point: str | None) -> None:
        """Refused while a batch is open; one that was killed is run again before another begins."""
        user = self._half_forgotten or user
        self._say(f"erase {user}, {point}")
        if self._open_batch():
            with pytest.raises(UsageError, match="interrupted"):
                self._forget(user)
            return
        was_killed = point is not None and self._die_at(point, lambda: self._forget(user))
        if point is None:
            self._forget(user)
        self._blocks_are_behind = False
        self._half_forgotten = user if was_killed else None
        landed = self._model.landed
        self._model.forget(user)
        if was_killed:  # some files, or none, are rewritten
            for name, file in landed.items():
                if self._read(name) != self._model.landed[name]:
                    assert self._read(name) == file
                    self._model.landed[name] = file
        self._check()

    @precondition(lambda self: self._model.accepted)
    @rule(point=st.sampled_from([None, *MAINTAIN_POINTS]))
    def compact(self, point: str | None) -> None:
        """Whatever was superseded, of every bucket."""
        self._say(f"compact, {point}")

        def run() -> None:
            with hold_locks(self._context, (TABLES,), holder="machine", fences=False):
                compact_ratings(self._context.tables, share=0.0, compression="zstd")

        if point is None:
            run()
        else:
            self._die_at(point, run)
        self._check()

    def teardown(self) -> None:
        """What was left undone is done by running it again."""
        self._say("the end")
        self._ingest()
        self._catch_up()
        if self._half_forgotten is not None:
            self._forget(self._half_forgotten)
            self._model.forget(self._half_forgotten)
            self._half_forgotten = None
        self._check()
        assert repair_tables.run(self._context, dry_run=True).findings == ()
        shutil.rmtree(self._context.settings.warehouse.root)
        shutil.rmtree(self._landing)

    def _mark(self) -> Sent:
        return Sent(KEEPER, ITEMS[0], 5.0, DAY + next(self._clock), f"k{next(self._clock)}")

    def _put(self, file: File) -> None:
        name = f"{next(self._names):03}.jsonl"
        (self._landing / name).write_text("".join(f"{sent.to_line()}\n" for sent in file))
        self._model.landed[name] = file
        self._archive.append(file)

    def _read(self, name: str) -> File:
        found = map(json.loads, (self._landing / name).read_text().splitlines())
        return tuple(Sent(own["user"], own["item"], own["rating"], own["time"], own["event_id"]) for own in found)

    def _ingest(self) -> None:
        with hold_locks(self._context, (TABLES,), holder="machine", fences=False):
            ingest_ratings.run(self._context)
        self._blocks_are_behind = False
        self._catch_up()

    def _replay(self) -> None:
        with hold_locks(self._context, (TABLES,), holder="machine", fences=False):
            quarantine.run(self._context, Selection(), Corrections(values={c.VALUE: {UNREADABLE: str(MEANT)}}))

    def _forget(self, user: str) -> None:
        with hold_locks(self._context, (TABLES, MODELS, LISTS), holder="machine", fences=False):
            forget_user.run(self._context, frozenset({user}))

    def _open_batch(self) -> str | None:
        path = claim_file(self._context.tables)
        if not self._context.files.exists(path):
            return None
        return "ingestion" if read_claim(self._context.files, path).replay is None else "replay"

    def _catch_up(self) -> None:
        """Let the model take in the batches that are closed or claimed and that it has not: from now on they stand."""
        entries: list[Entry] = list(read_entries(self._context.tables.ledger))
        path = claim_file(self._context.tables)
        if self._context.files.exists(path):
            entries += read_claim(self._context.files, path).entries
        new: dict[int, set[str]] = {}
        for own in entries:
            if own.state != ERASED and own.batch not in self._seen:
                new.setdefault(own.batch, set()).add(own.state)
        for batch in sorted(new):
            self._seen.add(batch)
            if new[batch] == {REPLAYED}:
                self._model.replay()
            else:
                self._model.take_in([own.source for own in entries if own.batch == batch])

    def _check(self) -> None:
        """Hold the tables against the model, as far as no batch is open."""
        if self._open_batch():
            return
        tables, model, half = self._context.tables, self._model, self._half_forgotten
        expected = model.current()
        rows = current_ratings(tables.ratings.read()).select(c.USER_ID, c.ITEM_ID, c.VALUE).collect()
        current = {(row[0], row[1]): row[2] for row in rows if row[0] != half}
        assert current == expected
        if not self._blocks_are_behind:
            assert {pair: value for pair, value in self._read_blocks() if pair[0] != half} == expected
        self._check_quarantine()
        entries = read_entries(tables.ledger)
        for own in entries:
            assert own.counts.landed == own.counts.accepted + own.counts.duplicate + own.counts.quarantined, own
        assert sum((own.counts for own in entries), Counts()) == model.counts

    def _check_quarantine(self) -> None:
        model, half = self._model, self._half_forgotten
        rows = self._context.tables.quarantine.read().select(c.RAW, c.RULES).collect()
        assert len(rows) == len(model.refused)
        texts = Counter(row[0] for row in rows if row[0] is not None and json.loads(row[0])["user"] != half)
        assert texts == Counter(own.sent.to_line() for own in model.refused if own.has_text and own.sent.user != half)

    def _read_blocks(self) -> Iterator[tuple[tuple[str, str], float]]:
        items = self._context.tables.items
        item_ids = read_items(items, items.version()).ids
        for row in read_user_blocks(self._context.tables).collect():
            ratings = read_ratings(row.asDict())
            users = np.repeat(ratings.user_ids.to_pylist(), np.diff(ratings.offsets)).tolist()
            for user, item, value in zip(users, ratings.items, ratings.plain_values(), strict=True):
                if value == value:  # NaN was withdrawn
                    yield (user, item_ids[item]), float(value)


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, Callable[[], None]], bool]:
    """Runs something that ends at a pause point as if it had been killed there; says whether it came by."""
    monkeypatch.setattr(pause, "time", _Deadly())
    file = tmp_path / "paused"
    monkeypatch.setenv("RECSYS_PAUSE_FILE", str(file))

    def run(point: str, job: Callable[[], None]) -> bool:
        monkeypatch.setenv("RECSYS_PAUSE_AT", point)
        try:
            job()
        except Killed:
            return True
        finally:
            monkeypatch.delenv("RECSYS_PAUSE_AT")
            file.unlink(missing_ok=True)
        return False

    return run


def test_whatever_happens_in_any_order_the_tables_are_what_the_model_says(
    spark: SparkSession, tmp_path: Path, die_at: Callable[[str, Callable[[], None]], bool]
) -> None:
    asked = os.environ.get("RECSYS_MACHINE", "")
    n_examples, n_steps = map(int, (asked or "3x12").split("x"))
    make_context(spark, make_settings(tmp_path / "origin", tmp_path / "none"))
    numbers = count()

    def start() -> Machine:
        number = next(numbers)
        landing = tmp_path / f"landing-{number}"
        landing.mkdir()
        own = make_settings(tmp_path / f"warehouse-{number}", landing)
        shutil.copytree(tmp_path / "origin", own.warehouse.root)
        return Machine(make_context(spark, own), die_at)

    profile = settings(
        max_examples=n_examples,
        stateful_step_count=n_steps,
        derandomize=not asked,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(start, settings=profile)  # type: ignore[arg-type]
