"""Gives each target the history of another user: the control for what a prompt with any history does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from persona.entries.choice import hash_pairs
from persona.entries.settings import HistorySettings
from persona.history import earlier_rows
from persona.tables import schemas
from persona.tables.parquet import count_rows, read_rows, read_table
from persona.tables.splits import read_split, split_of_users
from persona.tables.user_ranges import user_ranges

CANDIDATES = 16
ROUNDS = 4
ENTRIES_AT_ONCE = 50_000  # of one candidate of each target
TEXTS_AT_ONCE = 100_000
COLUMNS = ["interaction_id", "user_id", "item_id", "day", "session", "position"]


@dataclass(frozen=True)
class OtherUsers:
    """The texts of all users, to take histories from.

    Attributes:
        path: the interactions.
        entries: of each text what the matching needs; see `matching_table`.
        history: `other_user`, and how many entries.
    """

    path: Path
    entries: pl.DataFrame
    history: HistorySettings

    @classmethod
    def load(cls, interactions: Path, split: Path, history: HistorySettings) -> OtherUsers:
        """Read what the matching needs of all users: a few numbers per text.

        Raises:
            PersonaError: users are in several splits.
        """
        users = split_of_users(read_split(split))
        ranges = user_ranges(max(1, math.ceil(count_rows(interactions) / TEXTS_AT_ONCE)))
        texts = (read_table(interactions, schemas.INTERACTIONS, [*COLUMNS, "text"], users=part) for part in ranges)
        return cls(interactions, pl.concat([matching_table(part, users) for part in texts]), history)

    def histories_of(self, targets: pl.DataFrame) -> pl.DataFrame:
        """The histories of other users for some targets, with the columns of the interactions except `likes`.

        Returns:
            `interaction_id` (of the target), `history_id` (of the other user's text) and its columns, sorted by target
            and time.
        """
        pairs = match(targets, self.entries, self.history)
        texts = read_rows(self.path, schemas.INTERACTIONS, pairs["history_id"]).drop("likes")
        texts = texts.rename({"interaction_id": "history_id"})
        return pairs.join(texts, on="history_id", how="left").sort("interaction_id", "position")


def matching_table(texts: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    """What the matching needs of each text: `COLUMNS`, `split`, `n_characters`, `is_dated`, `moment`.

    Moments are comparable between users where texts have a day. Elsewhere a moment is the number of the user's session.
    """
    day = pl.col("day").cast(pl.Int32)
    return (
        texts.with_columns(n_characters=pl.col("text").str.len_chars(), is_dated=day.is_not_null())
        .with_columns(moment=pl.when("is_dated").then(day).otherwise("session"))
        .select(*COLUMNS, "n_characters", "is_dated", "moment")
        .join(split, on="user_id", how="left")
        .sort("user_id", "position")
    )


def match(targets: pl.DataFrame, entries: pl.DataFrame, history: HistorySettings) -> pl.DataFrame:
    """Choose for each target the history of another user of the same split.

    It has as many entries as the user's own history, or fewer if of four times 16 candidates, drawn by a
    hash of the target, none has as many. The entries are the last ones of the other user that are of a strictly earlier
    day (where texts have no day: of an earlier session, counted for each user) and not about the target's item. Of 16
    candidates the one is taken whose entries have most nearly as many characters together as the own ones.

    Args:
        targets: with `interaction_id`.
        entries: the table of `matching_table`, of all users.

    Returns:
        `interaction_id`, `history_id`.
    """
    wanted = _as_long_as_any(_wanted(targets, entries, history.max_entries), entries)
    # Users by the moment from which they have n texts.
    ready = entries.with_columns(n=pl.int_range(1, pl.len() + 1).over("user_id", "is_dated"))
    ready = ready.sort("split", "is_dated", "n", "moment", "user_id").select(
        "split", "is_dated", "n", "moment", candidate="user_id"
    )
    chosen = [pl.DataFrame(schema={"interaction_id": pl.Int64, "history_id": pl.Int64})]
    # All texts of each candidate are looked at.
    texts_of_a_user = max(1, entries.height // max(1, entries["user_id"].n_unique()))
    weight = pl.max_horizontal("n", pl.lit(texts_of_a_user))
    parts = wanted.with_columns(part=weight.cum_sum() // ENTRIES_AT_ONCE).partition_by("part", include_key=False)
    for part in parts:
        while part.height:
            for number in range(ROUNDS):
                drawn = _draw(part, ready, history.seed, number)
                found = _best(_candidate_entries(drawn, part, entries), part)
                chosen.append(found)
                part = part.join(found, on="interaction_id", how="anti")
            part = part.with_columns(pl.col("n") - 1).filter(pl.col("n") > 0)
    return pl.concat(chosen)


def _as_long_as_any(wanted: pl.DataFrame, entries: pl.DataFrame) -> pl.DataFrame:
    """Limit `n` to the entries that any other user of the split has, so that none is looked for in vain."""
    key = ["split", "is_dated"]
    longest = entries.group_by(*key, "user_id").len("longest").sort("longest", descending=True)
    two = longest.group_by(key).head(2).rename({"user_id": "other"})
    others = (
        wanted.select("interaction_id", "user_id", *key).join(two, on=key).filter(pl.col("user_id") != pl.col("other"))
    )
    most = others.group_by("interaction_id").agg(pl.col("longest").max().cast(pl.Int64))
    limited = wanted.join(most, on="interaction_id", how="left", maintain_order="left")
    limited = limited.with_columns(n=pl.min_horizontal("n", pl.col("longest").fill_null(0)))
    return limited.filter(pl.col("n") > 0).drop("longest")


def _wanted(targets: pl.DataFrame, entries: pl.DataFrame, max_entries: int | None) -> pl.DataFrame:
    """The targets with a history of their own: `n`, its number of entries, and `own`, their characters."""
    known = entries.join(targets.select("interaction_id"), on="interaction_id", how="semi").sort("interaction_id")
    own = entries.join(known, on="user_id", how="semi").sort("user_id", "position")
    first, end = earlier_rows(known, own)
    if max_entries is not None:
        first = np.maximum(first, end - max_entries)
    until = np.concatenate([[0], np.cumsum(own["n_characters"].to_numpy(), dtype=np.int64)])
    sizes = known.with_columns(n=pl.Series(end - first), own=pl.Series(until[end] - until[first]))
    return sizes.filter(pl.col("n") > 0)


def _draw(wanted: pl.DataFrame, ready: pl.DataFrame, seed: int, number: int) -> pl.DataFrame:
    """Draw candidates among the users who have `n` texts before the target: `interaction_id`, `draw`, `candidate`."""
    drawn = [_draw_group(group, pool, seed, number) for group, pool in _groups(wanted, ready)]
    schema = {"interaction_id": pl.Int64, "draw": pl.Int64, "candidate": pl.String}
    return pl.concat([pl.DataFrame(schema=schema), *drawn])


def _groups(wanted: pl.DataFrame, ready: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Targets of one split and one number of entries, with the users of this split."""
    key = ["split", "is_dated", "n"]
    pools = ready.join(wanted, on=key, how="semi", maintain_order="left").partition_by(key, as_dict=True)
    for values, group in wanted.partition_by(key, as_dict=True).items():
        yield group, pools.get(values, ready.clear())


def _draw_group(group: pl.DataFrame, pool: pl.DataFrame, seed: int, number: int) -> pl.DataFrame:
    n_ready = np.searchsorted(pool["moment"].to_numpy(), group["moment"].to_numpy())
    group = group.select("interaction_id").with_columns(n_ready=pl.Series(n_ready)).filter(pl.col("n_ready") > 0)
    draws = pl.DataFrame({"draw": range(number * CANDIDATES, (number + 1) * CANDIDATES)})
    pairs = group.join(draws, how="cross")
    at = (hash_pairs(pairs, "draw", seed) % pairs["n_ready"].to_numpy().astype(np.uint64)).astype(np.int64)
    return pairs.with_columns(candidate=pool["candidate"].gather(at)).drop("n_ready")


def _candidate_entries(drawn: pl.DataFrame, wanted: pl.DataFrame, entries: pl.DataFrame) -> pl.DataFrame:
    """The last `n` usable texts of each candidate."""
    target = wanted.select("interaction_id", "n", *[pl.col(c).alias(f"own_{c}") for c in ("user_id", "item_id")])
    moments = wanted.select("interaction_id", "is_dated", own_moment="moment")
    texts = entries.select("is_dated", "moment", "item_id", "position", "n_characters", candidate="user_id",
                           history_id="interaction_id")  # fmt: skip
    usable = (
        drawn.join(target, on="interaction_id")
        .join(moments, on="interaction_id")
        .filter(pl.col("candidate") != pl.col("own_user_id"))
        .join(texts, on=["candidate", "is_dated"])
        .filter(pl.col("moment") < pl.col("own_moment"), pl.col("item_id") != pl.col("own_item_id"))
        .sort("interaction_id", "draw", "position")
    )
    from_the_end = pl.int_range(pl.len(), 0, -1).over("interaction_id", "draw")
    return usable.filter(from_the_end <= pl.col("n"), pl.len().over("interaction_id", "draw") >= pl.col("n"))


def _best(candidates: pl.DataFrame, wanted: pl.DataFrame) -> pl.DataFrame:
    """The entries of the candidate whose number of characters is nearest to that of the own history."""
    total = candidates.group_by("interaction_id", "draw").agg(pl.col("n_characters").cast(pl.Int64).sum())
    distance = (pl.col("n_characters") - pl.col("own").cast(pl.Int64)).abs()
    best = (
        total.join(wanted.select("interaction_id", "own"), on="interaction_id")
        .sort("interaction_id", distance, "draw")
        .unique("interaction_id", keep="first", maintain_order=True)
    )
    kept = candidates.join(best, on=["interaction_id", "draw"], how="semi")
    return kept.select("interaction_id", "history_id")
