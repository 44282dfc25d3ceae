"""Finds texts that are written again: in the own history, from a second account, or within a text of another user.

Texts of at least 20 characters are compared, in columns. The cost grows with the number of characters, and beyond that
only with the texts that have something in common.
"""

from __future__ import annotations

import polars as pl

from persona.audit.checks import FINDING, MIN_CHARACTERS, SHINGLE, SIMILARITY, findings_of
from persona.tables.splits import shown_reviews

CHARACTERS_AT_ONCE = 2_000_000
PAIRS_AT_ONCE = 50_000
GRAMS_AT_ONCE = 10_000_000
TEXTS_AT_ONCE = 100_000
# Two accounts have so many distinct texts in common, or one of so many characters.
SHARED_TEXTS = 2
LONG_TEXT = 100
# A text of more users than this is a quotation or an advertisement, which says nothing about who wrote it.
MAX_ACCOUNTS = 5


def training_texts(sample: pl.DataFrame, interactions: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    """The reviews that training prompts may hold: the targets of a sample, and the histories of these targets.

    Args:
        sample: the targets.
        interactions: with `interaction_id`, `user_id`, `session`, and any other columns.
        split: as in `persona.tables.splits.shown_reviews`.
    """
    shown = shown_reviews(interactions, split, "train")
    is_target = pl.col("interaction_id").is_in(sample["interaction_id"].implode())
    last = shown.filter(is_target).group_by("user_id").agg(last=pl.col("session").max())
    return shown.join(last, on="user_id").filter(is_target | (pl.col("session") < pl.col("last"))).drop("last")


def two_accounts(sample: pl.DataFrame, cohorts: dict[str, pl.DataFrame], interactions: pl.DataFrame) -> pl.DataFrame:
    """Find val and test targets of users who write what a training user writes, so that both may be one person.

    Two users have two distinct texts in common, or one of at least 100 characters. Only letters and digits are
    compared, in lower case. Texts of fewer than 20 of them do not count, nor those that more than 5 users wrote.

    Args:
        sample: the targets of train.
        cohorts: the targets of `val` and `test`.
        interactions: with `user_id`, `text`; all texts of the users are compared.
    """
    targets = pl.concat(list(cohorts.values()))
    users = pl.concat([targets.select("user_id"), sample.select("user_id")])
    texts = interactions.join(users, on="user_id", how="semi").select("user_id", text=_plain()).unique()
    rare = texts.filter(pl.col("text").str.len_chars() >= MIN_CHARACTERS, pl.len().over("text") <= MAX_ACCOUNTS)
    here, there = (rare.join(table, on="user_id", how="semi") for table in (targets, sample))
    shared = (
        here.join(there, on="text", suffix="_trained")
        .filter(pl.col("user_id") != pl.col("user_id_trained"))
        .group_by("user_id", "user_id_trained")
        .agg(n=pl.len(), longest=pl.col("text").str.len_chars().max())
        .filter((pl.col("n") >= SHARED_TEXTS) | (pl.col("longest") >= LONG_TEXT))
        .sort("user_id", "n", "user_id_trained", descending=[False, True, False])
        .unique("user_id", keep="first", maintain_order=True)
    )
    detail = pl.format("{} texts in common with user {} of the training sample", "n", "user_id_trained")
    return findings_of(targets.join(shared, on="user_id"), "two_accounts", detail)


def quoted_in_training(training: pl.DataFrame, cohorts: dict[str, pl.DataFrame], texts: pl.DataFrame) -> pl.DataFrame:
    """Find val and test targets whose whole text is within a text of another user that training prompts may hold.

    Only letters and digits are compared, in lower case. Texts of fewer than 20 of them do not count.

    Args:
        training: with `interaction_id`, `user_id`, `text`, of targets and their histories.
        cohorts: the targets of `val` and `test`.
        texts: `interaction_id`, `text`.
    """
    rows = pl.concat(list(cohorts.values())).join(texts, on="interaction_id")
    targets = rows.select("interaction_id", "user_id", quoted=_plain())
    targets = targets.filter(pl.col("quoted").str.len_chars() >= MIN_CHARACTERS)
    # Aho and Corasick 1975: one pass over a text finds all of them.
    quotes = _plain().str.extract_many(targets["quoted"].unique().sort().implode(), overlapping=True)
    found = [training.select(history_id="interaction_id", other="user_id", quoted="text").clear()]
    for part in training.iter_slices(TEXTS_AT_ONCE):
        of_part = part.select(history_id="interaction_id", other="user_id", quoted=quotes)
        quoted = of_part.explode("quoted").drop_nulls("quoted").sort("history_id")
        found.append(quoted.unique(["quoted", "other"], keep="first", maintain_order=True))
    # The first that is of another user than the target is one of the first of two users.
    first = pl.concat(found).sort("history_id").unique(["quoted", "other"], keep="first", maintain_order=True)
    two = first.group_by("quoted", maintain_order=True).head(2)
    pairs = targets.join(two, on="quoted").filter(pl.col("user_id") != pl.col("other"))
    first = pairs.sort("interaction_id", "history_id").unique("interaction_id", keep="first", maintain_order=True)
    detail = pl.format("within training text {} of user {}", "history_id", "other")
    return findings_of(first, "quoted_in_training", detail)


def _plain() -> pl.Expr:
    """The letters and digits of a text, in lower case."""
    return pl.col("text").str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", "")


def repeats_in_history(prompts: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """Find targets whose text, or a part of it, is in the history of their own prompt.

    - `repeated_in_history`: an entry's character triples have a Jaccard similarity of at least 0.8 with the target's.
    - `quoted_in_history`: an entry has 20 characters in a row in common with the target.

    Args:
        prompts: with `interaction_id`, `user_id`, `history_ids`.
        interactions: with `interaction_id`, `user_id`, `text`.
    """
    shown = prompts.select("interaction_id", "user_id", history_id="history_ids").explode("history_id").drop_nulls()
    used = pl.concat([shown["interaction_id"], shown["history_id"]]).unique()
    texts = interactions.select("interaction_id", "user_id", "text").filter(
        pl.col("interaction_id").is_in(used.implode()), pl.col("text").str.len_chars() >= MIN_CHARACTERS
    )
    found = [pl.DataFrame(schema=FINDING)]
    for part in _parts_of_users(texts):
        for check, pairs in (
            ("repeated_in_history", _similar(part, shown)),
            ("quoted_in_history", _quoting(part, shown)),
        ):
            first = pairs.group_by("interaction_id", "user_id").agg(pl.col("history_id").min())
            found.append(findings_of(first, check, pl.format("history entry {}", "history_id")))
    return pl.concat(found)


def _parts_of_users(texts: pl.DataFrame) -> list[pl.DataFrame]:
    """The texts of whole users, of about so many characters at once."""
    sizes = texts.group_by("user_id").agg(size=pl.col("text").str.len_chars().sum()).sort("user_id")
    numbered = sizes.select("user_id", part=pl.col("size").cum_sum() // CHARACTERS_AT_ONCE)
    return texts.join(numbered, on="user_id").partition_by("part", include_key=False)


def _quoting(texts: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """Those of the shown pairs of target and history entry that have a run of characters in common."""
    runs = _grams(texts, MIN_CHARACTERS)
    here, there = pl.col("grams"), pl.col("grams_of_history")
    return _fulfilling(_meeting(runs.explode("grams"), shown), runs, here.list.set_intersection(there).list.len() > 0)


def _similar(texts: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """Those of the shown pairs of target and history entry whose character triples are similar.

    Of two sets with a Jaccard similarity of at least s, both have an element in common among the share 1 - s of their
    rarest ones, whatever rare means (prefix filtering: Chaudhuri, Ganti, Kaushik, ICDE 2006). Pairs of texts that have
    such a triple in common are compared exactly.
    """
    triples = _grams(texts, SHINGLE)
    grams = triples.explode("grams").with_columns(frequency=pl.len().over("grams")).sort("frequency", "grams")
    rank, size = pl.int_range(pl.len()).over("interaction_id"), pl.len().over("interaction_id")
    # One more than needed, so that rounding loses none.
    candidates = _meeting(grams.filter(rank < (1 - SIMILARITY) * size + 2), shown)
    here, there = pl.col("grams"), pl.col("grams_of_history")
    common = here.list.set_intersection(there).list.len()
    both = here.list.len() + there.list.len() - common
    return _fulfilling(candidates, triples, common >= SIMILARITY * both)


def _fulfilling(pairs: pl.DataFrame, lists: pl.DataFrame, condition: pl.Expr) -> pl.DataFrame:
    """Those of the pairs whose lists of grams, `grams` and `grams_of_history`, fulfil a condition."""
    targets, entries = lists.drop("user_id"), lists.select(history_id="interaction_id", grams_of_history="grams")
    sizes = lists.select("interaction_id", n=pl.col("grams").list.len().cast(pl.Int64))
    weighed = pairs.join(sizes, on="interaction_id", maintain_order="left").join(
        sizes.select(history_id="interaction_id", n_of_history="n"), on="history_id", maintain_order="left"
    )
    weighed = weighed.with_columns(part=(pl.col("n") + pl.col("n_of_history")).cum_sum() // GRAMS_AT_ONCE)
    found = [pairs.clear()]
    for chunk in weighed.partition_by("part", maintain_order=True):
        known = chunk.join(targets, on="interaction_id").join(entries, on="history_id")
        found.append(known.filter(condition).select(pairs.columns))
    return pl.concat(found)


def _grams(texts: pl.DataFrame, n: int) -> pl.DataFrame:
    """The distinct runs of n characters of each text, hashed: `interaction_id`, `user_id`, `grams`."""
    run = pl.concat_str([pl.element().shift(-k) for k in range(n)]).drop_nulls()
    grams = pl.col("text").str.split("").list.eval(run.hash().unique())
    return texts.select("interaction_id", "user_id", grams=grams)


def _meeting(grams: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """Those of the shown pairs of a user's texts that have a gram in common; perhaps others too, if these are many.

    Grams of the same texts, as those of a signature, make the same pairs, so one of them is enough.
    """
    ids = grams.select("interaction_id").unique()
    shown = shown.join(ids, on="interaction_id", how="semi", maintain_order="left")
    shown = shown.join(ids.select(history_id="interaction_id"), on="history_id", how="semi", maintain_order="left")
    groups = grams.group_by("user_id", "grams").agg(pl.col("interaction_id").sort())
    groups = groups.filter(pl.col("interaction_id").list.len() > 1).select("interaction_id").unique()
    # Of a user with very many short texts, more pairs have a gram in common than are shown.
    if (groups["interaction_id"].list.len().cast(pl.Int64) ** 2).sum() > max(PAIRS_AT_ONCE, shown.height):
        return shown
    pairs = groups.with_columns(history_id="interaction_id").explode("interaction_id").explode("history_id")
    return shown.join(pairs, on=["interaction_id", "history_id"], how="semi", maintain_order="left")
