"""Looks for leaks in what the data steps wrote.

History and splits are checked with code of their own. Likes are taken away and the steps run again: what comes out
otherwise has used them.

Each check returns the rows that it found, as columns `check`, `interaction_id`, `user_id`, `detail`. Texts of
people repeat and name their stars by nature, so a share of those is allowed; nothing is allowed of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from zlib import crc32

import polars as pl
from datasketch import MinHash, MinHashLSH

from persona.audit.star_names import NAMES_STAR
from persona.errors import PersonaError
from persona.prompts import PromptSpec, render
from persona.sampling import sample_targets
from persona.seeded_hash import id_priority

SHINGLE = 3  # characters
SIMILARITY = 0.8
MIN_CHARACTERS = 20  # shorter comments are boilerplate that says nothing of a leak
PERMUTATIONS = 64
CHUNK = 10_000
RENDERED_AGAIN = 20_000
PROMPTS_AT_ONCE = 32_768
FINDING = {"check": pl.String, "interaction_id": pl.Int64, "user_id": pl.String, "detail": pl.String}


def audit_prompts(prompts: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """History entries that are not of the past, are of the target's film, or of another user.

    Where users have several reviews of an item, as characters have lines in a film, the item says nothing.
    """
    reviews = interactions.select("interaction_id", "user_id", "item_id", "day", "session")
    once = not reviews.select("user_id", "item_id").is_duplicated().any()
    entries = (
        prompts.select("interaction_id", history_id="history_ids")
        .explode("history_id")
        .drop_nulls("history_id")
        .join(reviews, on="interaction_id", how="left")
        .join(reviews.select(pl.all().name.prefix("h_")), left_on="history_id", right_on="h_interaction_id", how="left")
    )
    entry = pl.format("history entry {}", "history_id")
    return pl.concat(
        [
            _findings(entries.filter(wrong), check, detail)
            for check, wrong, detail in [
                (
                    "history_not_earlier",
                    ((pl.col("h_session") >= pl.col("session")) | (pl.col("h_day") > pl.col("day"))).fill_null(False),
                    pl.format(
                        "{} is of session {} ({}), the target of {} ({})",
                        entry,
                        "h_session",
                        pl.col("h_day").cast(pl.String).fill_null("no day"),
                        "session",
                        pl.col("day").cast(pl.String).fill_null("no day"),
                    ),
                ),
                ("history_of_target_film", pl.lit(once) & (pl.col("h_item_id") == pl.col("item_id")), entry),
                ("history_of_another_user", pl.col("h_user_id").ne_missing(pl.col("user_id")), entry),
            ]
        ]
    )


def audit_rendering(
    prompts: pl.DataFrame,
    interactions: pl.DataFrame,
    users: pl.DataFrame,
    items: pl.DataFrame,
    spec: PromptSpec,
    at_most: int,
) -> pl.DataFrame:
    """Prompts that are not what rendering without any likes gives: likes were counted at crawl time, in the future.

    Of more than `at_most` prompts so many are looked at, chosen by a hash.
    """
    some = prompts.sort(id_priority(prompts["interaction_id"], 0)).head(at_most)
    again = render(some.select("interaction_id"), _without_likes(interactions), users, items, spec)
    both = some.join(again.select("interaction_id", again="prompt"), on="interaction_id", how="left")
    changed = both.filter(pl.col("prompt").ne_missing(pl.col("again")))
    return _findings(changed, "likes_in_prompt", pl.lit("the prompt differs from that rendered without likes"))


def audit_sample(
    sample: pl.DataFrame, interactions: pl.DataFrame, split: pl.DataFrame, settings: dict[str, Any]
) -> pl.DataFrame:
    """Targets that would not have been sampled if there were no likes, or that would and were not."""
    again = sample_targets(
        _without_likes(interactions),
        split,
        settings["split_name"],
        settings["max_samples_per_user"],
        settings["max_users"],
        settings["sample_seed"],
    )
    changed = pl.concat(
        [
            sample.join(again, on="interaction_id", how="anti"),
            again.join(sample, on="interaction_id", how="anti"),
        ],
        how="diagonal",
    )
    return _findings(changed, "likes_in_sampling", pl.lit("the choice differs from that without likes"))


def audit_splits(
    sample: pl.DataFrame, cohorts: dict[str, pl.DataFrame], split: pl.DataFrame, by: str = "user"
) -> pl.DataFrame:
    """Targets of a user who is in more than one of train, val and test, or not in the split that the file is of.

    With `by="item"` no item may be in two of them either.
    """
    named = [(name, table) for name, table in {"train": sample, **cohorts}.items()]
    found = []
    for n, (name, table) in enumerate(named):
        for other, others in named[n + 1 :]:
            for unit in ["user", "item"][: 1 if by == "user" else 2]:
                shared = table.join(others, on=f"{unit}_id", how="semi")
                detail = pl.lit(f"the {unit} is in {name} and in {other}")
                found.append(_findings(shared, f"{unit}_in_two_splits", detail))
        foreign = table.join(split.filter(pl.col("split") == name), on="user_id", how="anti")
        found.append(_findings(foreign, "user_of_another_split", pl.lit(f"the user is not in {name}")))
    return pl.concat(found)


def near_duplicates(sample: pl.DataFrame, cohorts: dict[str, pl.DataFrame], texts: pl.DataFrame) -> pl.DataFrame:
    """Val and test targets whose text is nearly that of a training target.

    Jaccard similarity of character triples of at least 0.8, for texts of at least 20 characters; candidates come
    from MinHash with banding (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3, by
    `datasketch`) and are compared exactly. The index holds the cohorts, so memory does not grow with training.
    """
    long = texts.filter(pl.col("text").str.len_chars() >= MIN_CHARACTERS)
    mine = pl.concat(list(cohorts.values())).join(long, on="interaction_id")
    shingles = {target: _shingles(text) for target, text in mine.select("interaction_id", "text").iter_rows()}
    index = MinHashLSH(threshold=SIMILARITY, num_perm=PERMUTATIONS)
    for target, signature in zip(shingles, _signatures(list(shingles.values())), strict=True):
        index.insert(target, signature)
    trained = (
        sample.join(long, on="interaction_id").sort("interaction_id").unique("text", keep="first", maintain_order=True)
    )
    found: dict[int, int] = {}
    for some in trained.iter_slices(CHUNK):
        theirs = [_shingles(text) for text in some["text"]]
        for other, grams, signature in zip(some["interaction_id"], theirs, _signatures(theirs), strict=True):
            for target in index.query(signature):
                if len(grams & shingles[target]) >= SIMILARITY * len(grams | shingles[target]):
                    found.setdefault(target, other)
    table = pl.DataFrame(list(found.items()), schema={"interaction_id": pl.Int64, "other": pl.Int64}, orient="row")
    rows = mine.join(table, on="interaction_id")
    return _findings(rows, "near_duplicate", pl.format("like training target {}", "other"))


def stars_named(cohorts: dict[str, pl.DataFrame], texts: pl.DataFrame) -> pl.DataFrame:
    """Val and test targets whose text says how many stars it gives."""
    rows = pl.concat(list(cohorts.values())).join(texts, on="interaction_id")
    named = rows.filter(pl.col("text").str.contains(NAMES_STAR))
    return _findings(named, "star_named", pl.col("text").str.extract(f"({NAMES_STAR})"))


def judge(findings: pl.DataFrame, n_targets: int, allowed: dict[str, float], where: str) -> dict[str, int]:
    """Count the findings of each check.

    Args:
        allowed: share of the targets that a check may find; 0 for checks that are not named.

    Raises:
        PersonaError: a check found more.
    """
    counts = dict(findings.group_by("check").agg(pl.col("interaction_id").n_unique()).sort("check").iter_rows())
    for check, count in counts.items():
        if count > allowed.get(check, 0.0) * n_targets:
            first = findings.filter(pl.col("check") == check).sort("interaction_id").row(0, named=True)
            limit = f", allowed are {allowed[check]:.1%}" if check in allowed else ""
            raise PersonaError(
                f"leak audit: {check}: {count} of {n_targets} targets{limit}; the first is interaction "
                f"{first['interaction_id']} of user {first['user_id']} ({first['detail']}); all are in {where}"
            )
    return counts


def _findings(rows: pl.DataFrame, check: str, detail: pl.Expr) -> pl.DataFrame:
    found = rows.select(check=pl.lit(check), interaction_id="interaction_id", user_id="user_id", detail=detail)
    return found.cast(FINDING)  # type: ignore[arg-type]


def _without_likes(interactions: pl.DataFrame) -> pl.DataFrame:
    return interactions.with_columns(likes=pl.lit(None, dtype=pl.Int32))


def _shingles(text: str) -> set[bytes]:
    return {text[n : n + SHINGLE].encode() for n in range(len(text) - SHINGLE + 1)}


def _signatures(texts: list[set[bytes]]) -> Iterator[MinHash]:
    signatures: Iterator[MinHash] = MinHash.generator(map(list, texts), num_perm=PERMUTATIONS, hashfunc=crc32)
    return signatures
