"""Where a stream's checkpoint is, read from Spark's own files; whatever is wrong with one of them is noticed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.store.files import FileStatus
from recsys.store.streams import Checkpoints, Progress


class LocalFiles:
    """The part of `recsys.store.files.Files` that checkpoints need, without a JVM."""

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def is_folder(self, path: str) -> bool:
        return Path(path).is_dir()

    def read_text(self, path: str) -> str:
        return Path(path).read_text()

    def list_files(self, folder: str, *, recursive: bool = False) -> Iterator[FileStatus]:
        found = Path(folder).rglob("*") if recursive else Path(folder).iterdir()
        return (FileStatus(str(file), 0, 0) for file in found if file.is_file())

    def make_folders(self, path: str) -> None:
        Path(path).mkdir(parents=True)

    def delete(self, path: str, *, recursive: bool = False) -> bool:
        shutil.rmtree(path)
        return recursive


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(LocalFiles(), str(tmp_path), "t", "id")  # type: ignore[arg-type]


def write(checkpoint: str, *, offsets: int, commits: int) -> None:
    """A checkpoint as Spark leaves it: it began at 5, every batch takes 10."""
    root = Path(checkpoint)
    for folder in ("offsets", "commits", "sources/0"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "metadata").write_text('{"id":"x"}')
    (root / "sources/0/0").write_text('\0v1\n{"t":{"0":5}}')
    for batch in range(offsets):
        (root / f"offsets/{batch}").write_text(f'v1\n{{"conf":{{}}}}\n{{"t":{{"0":{5 + 10 * (batch + 1)},"1":0}}}}')
        (root / f"offsets/.{batch}.crc").write_text("crc")
    for batch in range(commits):
        (root / f"commits/{batch}").write_text('v1\n{"nextBatchWatermarkMs":0}')


@pytest.mark.parametrize(
    ("offsets", "commits", "progress"),
    [
        (0, 0, Progress({0: 5}, {0: 5})),
        (1, 0, Progress({0: 5}, {0: 15, 1: 0})),
        (1, 1, Progress({0: 15, 1: 0}, {0: 15, 1: 0})),
        (12, 11, Progress({0: 115, 1: 0}, {0: 125, 1: 0})),
    ],
)
def test_a_checkpoint_goes_on_after_its_last_batch_or_repeats_that(
    checkpoints: Checkpoints, offsets: int, commits: int, progress: Progress
) -> None:
    checkpoint = checkpoints.begin()
    write(checkpoint, offsets=offsets, commits=commits)
    assert checkpoints.newest() == checkpoint
    assert checkpoints.progress(checkpoint) == progress


def test_a_checkpoint_and_an_offset_agree_between_the_last_commit_and_the_last_plan() -> None:
    progress = Progress({0: 5}, {0: 15})
    assert [progress.holds(0, offset) for offset in (4, 5, 9, 15, 16)] == [False, True, True, True, False]
    assert (progress.holds(1, 0), progress.holds(1, 1)) == (True, False)


@pytest.mark.parametrize("name", ["metadata", "offsets/1", "offsets/0", "commits/0", "sources/0/0"])
@pytest.mark.parametrize("content", ["", "v1\n", 'v1\n{"t":{"0":'])
def test_case_21_a_file_that_is_empty_or_cut_is_named(checkpoints: Checkpoints, name: str, content: str) -> None:
    checkpoint = checkpoints.begin()
    write(checkpoint, offsets=1 if name.startswith("sources") else 2, commits=0 if name.startswith("sources") else 1)
    Path(checkpoint, name).write_text(content)
    with pytest.raises(ValueError, match=f"{checkpoint}/{name} is torn"):
        checkpoints.progress(checkpoint)


@pytest.mark.parametrize("name", ["metadata", "offsets/1", "commits/1"])
def test_a_file_that_is_missing_is_noticed(checkpoints: Checkpoints, name: str) -> None:
    checkpoint = checkpoints.begin()
    write(checkpoint, offsets=3, commits=2)
    Path(checkpoint, name).unlink()
    with pytest.raises(ValueError, match=checkpoint):
        checkpoints.progress(checkpoint)


def test_old_files_that_spark_has_removed_are_not_missed(checkpoints: Checkpoints) -> None:
    checkpoint = checkpoints.begin()
    write(checkpoint, offsets=3, commits=2)
    Path(checkpoint, "offsets/0").unlink()
    assert checkpoints.progress(checkpoint) == Progress({0: 25, 1: 0}, {0: 35, 1: 0})


def test_a_new_checkpoint_leaves_the_last_one_to_be_looked_at(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    begun = []
    for _ in range(3):
        begun.append(checkpoints.begin())
        assert checkpoints.newest() != begun[-1]  # nothing is in it yet
        write(begun[-1], offsets=1, commits=1)
        assert checkpoints.newest() == begun[-1]
    assert [Path(checkpoint).exists() for checkpoint in begun] == [False, True, True]
