"""Batches that ledger, ratings and items disagree about, after a commit was lost or a claim damaged, made good.

Rests on what ingestion does anyway: a batch with a claim and without its ledger entries is repeated or finished, and a
rating that arrives twice counts once. The caller holds the tables lock.
"""

from dataclasses import replace
from typing import Final

from pyspark.sql import functions as sf

from recsys import columns as c
from recsys.batches import claim_file, count_batch, ledger_app, make_ledger_rows, newest_batch, read_claim, read_entries
from recsys.errors import TableDamagedError
from recsys.ratings.ledger import ACCEPTED, REPLAYED, Claim, Counts, Entry, Replay
from recsys.store.repair import Finding, State
from recsys.store.tables import Tables

RESTORED: Final = "restored"  # format of an entry of the ledger that stands for a batch whose sources are not known


def reconcile(tables: Tables, *, dry_run: bool) -> list[Finding]:
    """Make a damaged claim good, then hold ledger, ratings and items against each other."""
    state = State.REPAIRABLE if dry_run else State.REPAIRED
    path = claim_file(tables)
    findings: list[Finding] = []
    claim: Claim | None = None
    if tables.files.exists(path):
        try:
            claim = read_claim(tables.files, path)
        except TableDamagedError:
            findings.append(
                Finding("claims", state, f"'{path}' was empty or cut off. The next ingestion reads its files again.")
            )
    entries = read_entries(tables.ledger)
    closed = max((entry.batch for entry in entries), default=0)
    if findings and not dry_run:  # what refused rows it had are written again with its files
        tables.quarantine.delete(f"{c.BATCH} > {closed}")
    written = newest_batch(tables.ratings.read())
    if written > closed and entries and (claim is None or claim.batch != written):
        findings.append(_account_for(tables, written, state, dry_run=dry_run))
    if findings and not dry_run and tables.files.exists(path) and claim is None:
        tables.files.delete(path)
    if claim is None and closed > 0:
        findings += _reopen(tables, entries, written, state, dry_run=dry_run)
    return findings


def _account_for(tables: Tables, batch: int, state: State, *, dry_run: bool) -> Finding:
    """Let the ledger know of a batch whose sources are not known any more; they are read again and count once."""
    n = count_batch(tables.ratings, batch)
    if not dry_run:
        now_us = int(tables.ratings.read().sparkSession.sql("SELECT unix_micros(now())").collect()[0][0])
        entry = Entry(
            batch=batch,
            source=f"batch {batch}, restored by repair_tables",
            format=RESTORED,
            size=0,
            modified_ms=now_us // 1000,
            claimed_us=now_us,
            checksum="",
            counts=Counts(landed=n, accepted=n),
            state=ACCEPTED,
        )
        tables.quarantine.delete(f"{c.BATCH} = {batch}")
        tables.ledger.append(make_ledger_rows(tables.ledger.read().sparkSession, Claim(batch, now_us, (entry,))))
    return Finding(
        "ingest_ledger",
        state,
        f"batch {batch} is in the ratings ({n:,} rows) and not in the ledger. The ledger has an entry for it now; the "
        "next ingestion reads its files or messages again, where they still are, and each rating counts once.",
    )


def _reopen(tables: Tables, entries: list[Entry], written: int, state: State, *, dry_run: bool) -> list[Finding]:
    """Make the claim of a closed batch again whose ratings or items are gone: the next ingestion ends it as before."""
    batch = max((entry.batch for entry in entries if entry.counts.accepted > 0), default=0)
    app = ledger_app(tables)
    own = tuple(replace(entry) for entry in entries if entry.batch == batch)
    if batch == 0 or any(entry.format == RESTORED for entry in own):
        return []
    is_replay = any(entry.state == REPLAYED for entry in own)
    if is_replay and written < batch and (tables.ratings.last_txn(app) or 0) < batch:
        n = sum(entry.counts.accepted for entry in own)
        what = f"the {n:,} ratings that replay {batch} took out of quarantine are not in the table"
        return [
            Finding("ratings", State.LOST, f"{what}. Put the warehouse back from a backup, or have them landed again.")
        ]
    if written < batch and (tables.ratings.last_txn(app) or 0) < batch:
        table, what = "ratings", "are not in the table"
    elif _lacks_items(tables, batch):
        table, what = "items", "rated items that have no position"
    else:
        return []
    if not dry_run:
        claim = Claim(batch, own[0].claimed_us, own, Replay("", (), 0) if is_replay else None)
        tables.files.write(claim_file(tables), claim.to_json())  # first: a repair that dies here is repeated
        tables.ledger.delete(f"{c.BATCH} = {batch}")
    others = sorted({e.batch for e in entries if e.counts.accepted > 0 and written < e.batch < batch})
    lost = [
        Finding(
            "ratings",
            State.LOST,
            f"the ratings of batches {', '.join(map(str, others))} are not in the table either, though the ledger has "
            "them. Delete their entries from ingest_ledger (DELETE ... WHERE batch IN ...) and their files, where they "
            "still are, are read as new; or RESTORE TABLE to the version before they went.",
        )
    ]
    return (lost if others and table == "ratings" else []) + [
        Finding(
            table,
            state,
            f"the ratings of batch {batch} {what}, though the ledger has the batch: "
            f"{len(own)} files or ranges, the first is '{own[0].source}'. It is open again: the next ingestion ends "
            "it from the files or messages, which must still be there unchanged, where ratings are gone. "
            "If a user was erased since that batch, erase him again.",
        )
    ]


def _lacks_items(tables: Tables, batch: int) -> bool:
    rated = tables.ratings.read().where(sf.col(c.BATCH) == batch).select(c.ITEM_ID).distinct()
    return not rated.join(tables.items.read().select(c.ITEM_ID), c.ITEM_ID, "left_anti").isEmpty()
