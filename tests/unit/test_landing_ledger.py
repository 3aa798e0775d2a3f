"""Which files are new, which are copies, and that no row is lost."""

import pytest

from recsys.errors import ConservationError
from recsys.ratings.landing import Arrival, Fault, LandedFile, Layout
from recsys.ratings.ledger import Claim, Counts, Entry, Seen, check_conservation, find_copies, make_entries


def file(source: str, checksum: str, fault: Fault | None = None) -> LandedFile:
    return LandedFile(Arrival(source, f"/in/{source}", 10, 5), "csv", checksum, Layout("csv"), fault)


def entry(source: str, checksum: str, counts: Counts, batch: int = 1) -> Entry:
    return Entry(batch, source, "csv", 10, 5, 7, checksum, counts, "accepted")


READ = Counts(landed=4, accepted=2, duplicate=1, quarantined=1)


def test_case_14_a_copy_counts_all_its_rows_as_duplicates_whether_of_this_batch_or_an_earlier_one() -> None:
    seen = Seen([entry("old.csv", "A", Counts(3, 3))])
    files = [file("a.csv", "B"), file("b.csv", "B"), file("c.csv", "A")]
    assert find_copies(files, seen) == {"b.csv", "c.csv"}
    counts = [found.counts for found in make_entries(2, 7, files, {"a.csv": READ}, seen)]
    assert counts == [READ, Counts(4, 0, 4, 0), Counts(3, 0, 3, 0)]


def test_content_that_was_only_refused_is_read_again_under_another_name() -> None:
    refused = Seen([entry("old.csv", "A", Counts(3, 0, 0, 3))])
    assert find_copies([file("a.csv", "A")], refused) == set()


def test_case_2_a_name_with_other_content_is_new_and_with_the_same_content_is_not() -> None:
    seen = Seen([entry("a.csv", "A", Counts(3, 3))])
    assert seen.is_unchanged(Arrival("a.csv", "/in/a.csv", 10, 5))
    assert not seen.is_unchanged(Arrival("a.csv", "/in/a.csv", 10, 6))  # touched: read for its checksum
    assert seen.is_known(file("a.csv", "A"))
    assert not seen.is_known(file("a.csv", "B"))
    assert seen.has_name("a.csv")


def test_a_file_that_could_not_be_read_is_looked_at_again() -> None:
    seen = Seen([entry("a.csv", "", Counts(1, 0, 0, 1))])
    assert not seen.is_unchanged(Arrival("a.csv", "/in/a.csv", 10, 5))
    assert seen.is_known(file("a.csv", ""))  # still unreadable: no second entry


def test_a_wrong_file_counts_one_row_or_all_of_its_lines() -> None:
    whole, by_line = Fault("not_text", "png"), Fault("missing_column", "no user", by_line=True)
    files = [file("a.csv", "A", whole), file("b.csv", "B", by_line), file("c.csv", "C")]
    entries = make_entries(1, 7, files, {"b.csv": Counts(9, 0, 0, 9)}, Seen([]))
    assert [(e.counts.landed, e.counts.quarantined) for e in entries] == [(1, 1), (9, 9), (0, 0)]
    assert [e.state for e in entries] == ["quarantined", "quarantined", "accepted"]


def test_a_claim_survives_its_file() -> None:
    claim = Claim(3, 7, (entry("ä b.csv", "A", READ, batch=3),))
    assert Claim.from_json(claim.to_json()) == claim


def test_a_row_that_is_lost_or_counted_twice_stops_the_batch() -> None:
    claim = Claim(3, 7, (entry("a.csv", "A", READ), entry("b.csv", "B", READ)))
    check_conservation(claim, appended=4, quarantined=2)
    with pytest.raises(ConservationError, match="4 rows were accepted, but 3 are in the table ratings"):
        check_conservation(claim, appended=3, quarantined=2)
    with pytest.raises(ConservationError, match="2 rows were quarantined, but 4 are in the table quarantine"):
        check_conservation(claim, appended=4, quarantined=4)
    lost = Claim(3, 7, (entry("a.csv", "A", Counts(landed=5, accepted=4)),))
    with pytest.raises(ConservationError, match=r"file 'a.csv': rows do not add up"):
        check_conservation(lost, appended=4, quarantined=0)


def test_events_are_counted_by_the_batch_they_were_accepted_in() -> None:
    seen = Seen([entry("a.csv", "A", Counts(3, 3), batch=1), entry("b.csv", "B", Counts(2, 2), batch=4)])
    seen.add([entry("c.csv", "C", Counts(5, 4, 1), batch=4), entry("d.csv", "D", Counts(7, 7), batch=6)])
    assert seen.count_accepted(through=4) == 3 + 2 + 4
    assert seen.count_accepted(after=1, through=4) == 2 + 4
    assert seen.count_accepted(after=6, through=9) == 0
