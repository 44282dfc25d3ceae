"""Checks the output of the data steps for leaks.

History and splits are checked with code that the data steps do not use. To check that likes are not used, the steps
are run again on data without likes: a different result has used them.

Each check returns its findings as rows of `check`, `interaction_id`, `user_id`, `detail`. People repeat texts and name
their stars, so a share of these findings may be allowed; other checks must find nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any
from zlib import crc32

import polars as pl

from persona.audit.star_names import NAMES_STAR
from persona.entries.other_users import OtherUsers
from persona.errors import PersonaError
from persona.prompts import PromptSpec, render
from persona.sampling import sample_targets
from persona.seeded_hash import id_priority

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE = 3  # characters
SIMILARITY = 0.8
MIN_CHARACTERS = 20  # shorter comments repeat by chance
PERMUTATIONS = 64
CHUNK = 10_000
RENDERED_AGAIN = 20_000
PROMPTS_AT_ONCE = 32_768
FINDING = {"check": pl.String, "interaction_id": pl.Int64, "user_id": pl.String, "detail": pl.String}


def audit_prompts(prompts: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """Find history entries that are not earlier than the target, or are of its item, or of another user.

    Where users have several interactions with an item, as characters have several lines in a film, the item is not
    checked.
    """
    once = not interactions.select("user_id", "item_id").is_duplicated().any()
    entries = _entries(prompts, interactions, interactions)
    entry = pl.format("history entry {}", "history_id")
    is_late = (pl.col("h_session") >= pl.col("session")) | (pl.col("h_day") > pl.col("day"))
    return pl.concat(
        [
            findings_of(entries.filter(is_late.fill_null(False)), "history_not_earlier", _moments(entry)),
            findings_of(
                entries.filter(pl.lit(once) & (pl.col("h_item_id") == pl.col("item_id"))),
                "history_of_target_film",
                entry,
            ),
            findings_of(
                entries.filter(pl.col("h_user_id").ne_missing(pl.col("user_id"))), "history_of_another_user", entry
            ),
        ]
    )


def audit_other_users(
    prompts: pl.DataFrame, interactions: pl.DataFrame, shown: pl.DataFrame, split: pl.DataFrame
) -> pl.DataFrame:
    """Check prompts that show the history of another user, as a control.

    It must be of one user, who is another one of the same split, of a strictly earlier day (where there are no days:
    of an earlier session, counted for each user), and not about the target's item.

    Args:
        prompts, interactions: the prompts and all texts of their users.
        shown: the texts that the histories are made of.
        split: `schemas.SPLIT`.
    """
    entries = (
        _entries(prompts, interactions, shown)
        .with_columns(n_users=pl.col("h_user_id").n_unique().over("interaction_id"))
        .join(split, on="user_id", how="left")
        .join(split.select(pl.all().name.prefix("h_")), on="h_user_id", how="left")
    )
    days = pl.col("h_day").is_not_null() & pl.col("day").is_not_null()
    is_late = pl.when(days).then(pl.col("h_day") >= pl.col("day")).otherwise(pl.col("h_session") >= pl.col("session"))
    is_own = pl.col("h_user_id").eq_missing(pl.col("user_id"))
    is_of_another_split = pl.col("h_split").ne_missing(pl.col("split"))
    entry = pl.format("history entry {} of user {}", "history_id", pl.col("h_user_id").fill_null("unknown"))
    return pl.concat(
        [
            findings_of(entries.filter(is_late.fill_null(True)), "history_not_earlier", _moments(entry)),
            findings_of(entries.filter(pl.col("h_item_id") == pl.col("item_id")), "history_of_target_film", entry),
            findings_of(entries.filter(is_own), "history_of_own_user", entry),
            findings_of(entries.filter(pl.col("n_users") > 1), "history_of_several_users", entry),
            findings_of(entries.filter(is_of_another_split), "history_of_another_split", entry),
        ]
    )


def _entries(prompts: pl.DataFrame, interactions: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """Each history entry of each prompt, with columns of the target, and with `h_` those of the entry."""
    columns = ["interaction_id", "user_id", "item_id", "day", "session"]
    entries = shown.select(columns).select(pl.all().name.prefix("h_"))
    return (
        prompts.select("interaction_id", history_id="history_ids")
        .explode("history_id")
        .drop_nulls("history_id")
        .join(interactions.select(columns), on="interaction_id", how="left")
        .join(entries, left_on="history_id", right_on="h_interaction_id", how="left")
    )


def _moments(entry: pl.Expr) -> pl.Expr:
    return pl.format(
        "{} is of session {} ({}), the target of {} ({})",
        entry,
        pl.col("h_session").cast(pl.String).fill_null("unknown"),
        pl.col("h_day").cast(pl.String).fill_null("no day"),
        "session",
        pl.col("day").cast(pl.String).fill_null("no day"),
    )


def audit_rendering(
    prompts: pl.DataFrame,
    interactions: pl.DataFrame,
    users: pl.DataFrame,
    items: pl.DataFrame,
    spec: PromptSpec,
    at_most: int,
    others: OtherUsers | None = None,
) -> pl.DataFrame:
    """Find prompts that differ from those rendered without likes, which were counted when the data was crawled.

    Args:
        at_most: of more prompts than this, so many are checked, chosen by a hash.
        others: the users to take histories from, if the prompts show those of other users.
    """
    subset = prompts.sort(id_priority(prompts["interaction_id"], 0)).head(at_most)
    histories = others.histories_of(subset) if others else None
    again = render(subset.select("interaction_id"), _drop_likes(interactions), users, items, spec, histories)
    both = subset.join(again.select("interaction_id", again="prompt"), on="interaction_id", how="left")
    changed = both.filter(pl.col("prompt").ne_missing(pl.col("again")))
    return findings_of(changed, "likes_in_prompt", pl.lit("the prompt differs from that rendered without likes"))


def audit_sample(
    sample: pl.DataFrame, interactions: pl.DataFrame, split: pl.DataFrame, settings: dict[str, Any]
) -> pl.DataFrame:
    """Find targets that are in the sample, or in one drawn without likes, but not in both."""
    again = sample_targets(
        _drop_likes(interactions),
        split,
        settings["split_name"],
        settings["max_samples_per_user"],
        settings["max_users"],
        settings["sample_seed"],
        settings["min_history"],
    )
    changed = pl.concat(
        [
            sample.join(again, on="interaction_id", how="anti"),
            again.join(sample, on="interaction_id", how="anti"),
        ],
        how="diagonal",
    )
    return findings_of(changed, "likes_in_sampling", pl.lit("the choice differs from that without likes"))


def audit_splits(
    sample: pl.DataFrame, cohorts: dict[str, pl.DataFrame], split: pl.DataFrame, by: str = "user"
) -> pl.DataFrame:
    """Find targets of users or items that are in several of train, val and test, and targets of another split.

    Args:
        sample: the targets of train.
        cohorts: the targets of `val` and `test`.
        split: with the columns of `schemas.SPLIT` or `schemas.SPLIT_OF_REVIEWS`.
        by: `user`, `item` or `time`. By item a user, and by time a user or an item, may be in several.
    """
    named = [(name, table) for name, table in {"train": sample, **cohorts}.items()]
    findings = []
    for n, (name, table) in enumerate(named):
        for other, others in named[n + 1 :] if by != "time" else []:
            shared = table.join(others, on=f"{by}_id", how="semi")
            detail = pl.lit(f"the {by} is in {name} and in {other}")
            findings.append(findings_of(shared, f"{by}_in_two_splits", detail))
        members = split.filter(pl.col("split") == name).drop("split")
        foreign = table.join(members, on=members.columns, how="anti")
        unit = "target" if "interaction_id" in members.columns else "user"
        findings.append(findings_of(foreign, f"{unit}_of_another_split", pl.lit(f"the {unit} is not in {name}")))
    return pl.concat(findings)


def audit_days(
    sample: pl.DataFrame, cohorts: dict[str, pl.DataFrame], interactions: pl.DataFrame, val_from: date, test_from: date
) -> pl.DataFrame:
    """Find targets that were not written in the time of their split: a training target in or after val, and so on.

    Args:
        sample: the targets of train.
        cohorts: the targets of `val` and `test`.
        interactions: with `interaction_id`, `day`.
        val_from, test_from: the first days of val and of test.
    """
    times = {"train": (date.min, val_from), "val": (val_from, test_from), "test": (test_from, date.max)}
    days = interactions.select("interaction_id", "day")
    findings = []
    for name, table in {"train": sample, **cohorts}.items():
        low, high = times[name]
        is_inside = (pl.col("day") >= low) & (pl.col("day") < high)
        outside = table.join(days, on="interaction_id").filter(~is_inside.fill_null(False))
        findings.append(findings_of(outside, "day_of_another_split", pl.format("the day {} is not in " + name, "day")))
    return pl.concat(findings)


def hidden_in_history(prompts: pl.DataFrame, split: pl.DataFrame, name: str) -> pl.DataFrame:
    """Find history entries that are of a later split than the prompt, which by item or by time must not be seen yet.

    Args:
        prompts: with `interaction_id`, `user_id`, `history_ids`.
        split: with the columns of `schemas.SPLIT_OF_REVIEWS`; where users are split nothing is checked.
        name: the split of the prompts.
    """
    if "interaction_id" not in split.columns:
        return pl.DataFrame(schema=FINDING)
    entries = prompts.select("interaction_id", "user_id", history_id="history_ids").explode("history_id")
    later = {"train": ["val", "test"], "val": ["test"], "test": []}[name]
    hidden = split.filter(pl.col("split").is_in(later)).select(history_id="interaction_id", of="split")
    detail = pl.format("history entry {} is in {}", "history_id", "of")
    return findings_of(entries.join(hidden, on="history_id"), "history_of_later_split", detail)


def near_duplicates(training: pl.DataFrame, cohorts: dict[str, pl.DataFrame], texts: pl.DataFrame) -> pl.DataFrame:
    """Find val and test targets whose text is nearly the same as one that training prompts may hold.

    Two texts of at least 20 characters are nearly the same if the Jaccard similarity of their character triples is at
    least 0.8. MinHash with banding (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3, by
    `datasketch`) finds candidates, which are compared exactly. The index holds only the cohorts, so memory does not
    grow with the training sample.

    Args:
        training: with `interaction_id`, of targets and their histories.
        cohorts: the targets of `val` and `test`.
        texts: `interaction_id`, `text`.
    """
    from datasketch import MinHashLSH

    long = texts.filter(pl.col("text").str.len_chars() >= MIN_CHARACTERS)
    targets = pl.concat(list(cohorts.values())).join(long, on="interaction_id")
    shingles = {target: _shingles(text) for target, text in targets.select("interaction_id", "text").iter_rows()}
    index = MinHashLSH(threshold=SIMILARITY, num_perm=PERMUTATIONS)
    for target, signature in zip(shingles, _signatures(list(shingles.values())), strict=True):
        index.insert(target, signature)
    trained = (
        long.join(training, on="interaction_id", how="semi")
        .sort("interaction_id")
        .unique("text", keep="first", maintain_order=True)
    )
    duplicates: dict[int, int] = {}
    for chunk in trained.iter_slices(CHUNK):
        chunk_shingles = [_shingles(text) for text in chunk["text"]]
        signatures = _signatures(chunk_shingles)
        for other, grams, signature in zip(chunk["interaction_id"], chunk_shingles, signatures, strict=True):
            for target in index.query(signature):
                if len(grams & shingles[target]) >= SIMILARITY * len(grams | shingles[target]):
                    duplicates.setdefault(target, other)
    table = pl.DataFrame(list(duplicates.items()), schema={"interaction_id": pl.Int64, "other": pl.Int64}, orient="row")
    rows = targets.join(table, on="interaction_id")
    return findings_of(rows, "near_duplicate", pl.format("like training text {}", "other"))


def stars_named(cohorts: dict[str, pl.DataFrame], texts: pl.DataFrame) -> pl.DataFrame:
    """Find val and test targets whose text says how many stars it gives."""
    rows = pl.concat(list(cohorts.values())).join(texts, on="interaction_id")
    named = rows.filter(pl.col("text").str.contains(NAMES_STAR))
    return findings_of(named, "star_named", pl.col("text").str.extract(f"({NAMES_STAR})"))


def check_findings(findings: pl.DataFrame, n_targets: int, allowed: dict[str, float], path: str) -> dict[str, int]:
    """Count the targets that each check found.

    Args:
        n_targets: the number of all targets.
        allowed: share of the targets that a check may find, by name of the check; 0 for the others.
        path: the file with all findings, for the message.

    Raises:
        PersonaError: checks found more than is allowed; one line names all of them.
    """
    counts = dict(findings.group_by("check").agg(pl.col("interaction_id").n_unique()).sort("check").iter_rows())
    too_many = [check for check, count in counts.items() if count > allowed.get(check, 0.0) * n_targets]
    if too_many:
        found = "; ".join(_found(findings, check, counts[check], n_targets, allowed) for check in too_many)
        raise PersonaError(f"leak audit: {found}; all are in {path}")
    return counts


def _found(findings: pl.DataFrame, check: str, count: int, n_targets: int, allowed: dict[str, float]) -> str:
    """What one check found, what of it is allowed by which key, and an example."""
    first = findings.filter(pl.col("check") == check).sort("interaction_id").row(0, named=True)
    limit = f"audit.{check} allows {allowed[check]:.1%}" if check in allowed else "none is ever allowed"
    return (
        f"{check}: {count} of {n_targets} targets, {limit}, the first is interaction {first['interaction_id']} of user "
        f"{first['user_id']} ({first['detail']})"
    )


def findings_of(rows: pl.DataFrame, check: str, detail: pl.Expr) -> pl.DataFrame:
    """Make a finding of each of some rows with `interaction_id`, `user_id` and what `detail` needs."""
    findings = rows.select(check=pl.lit(check), interaction_id="interaction_id", user_id="user_id", detail=detail)
    return findings.cast(FINDING)  # type: ignore[arg-type]


def _drop_likes(interactions: pl.DataFrame) -> pl.DataFrame:
    return interactions.with_columns(likes=pl.lit(None, dtype=pl.Int32))


def _shingles(text: str) -> set[bytes]:
    """The character triples of a text."""
    return {text[n : n + SHINGLE].encode() for n in range(len(text) - SHINGLE + 1)}


def _signatures(texts: list[set[bytes]]) -> Iterator[MinHash]:
    from datasketch import MinHash

    signatures: Iterator[MinHash] = MinHash.generator(map(list, texts), num_perm=PERMUTATIONS, hashfunc=crc32)
    return signatures
