"""The history of another user is never the own one, never late, of the same split, and the same in all buckets."""

from __future__ import annotations

import math
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona import prompts
from persona.audit.checks import audit_other_users
from persona.entries import other_users
from persona.entries.other_users import match, matching_table
from persona.entries.settings import HistorySettings
from persona.errors import PersonaError
from persona.history import earlier_reviews
from persona.ingestion.ingest import Ingested
from persona.prompts import render, render_file
from persona.splitting import split_users
from persona.tables import schemas
from persona.tables.parquet import write_table
from tests.unit.entries.examples import make_interactions, make_items, make_spec, make_split, make_users, users


@given(users, st.booleans(), st.sampled_from([None, 1, 2]))
def test_it_is_of_one_other_user_of_the_split_and_strictly_earlier(
    rows: list[list[tuple[bool, str, str]]], is_dated: bool, k: int | None
) -> None:
    interactions, history = make_interactions(rows, is_dated), HistorySettings(max_entries=k, select="other_user")
    pairs = match(interactions, matching_table(interactions, make_split(interactions)), history)
    splits = dict(make_split(interactions).iter_rows())
    by_id = {row["interaction_id"]: row for row in interactions.iter_rows(named=True)}
    n_own = dict(earlier_reviews(interactions, interactions).group_by("interaction_id").len().iter_rows())
    for (target,), group in pairs.group_by("interaction_id"):
        own, entries = by_id[target], [by_id[entry] for entry in group["history_id"]]
        [user] = {entry["user_id"] for entry in entries}
        assert user != own["user_id"] and splits[user] == splits[own["user_id"]]
        moment = "day" if is_dated else "session"
        assert all(e[moment] < own[moment] and e["item_id"] != own["item_id"] for e in entries)
        assert len(entries) <= min(n_own[target], k or math.inf)
        usable = [e for e in by_id.values() if e["user_id"] == user and e[moment] < own[moment]]
        usable = [e for e in usable if e["item_id"] != own["item_id"]]
        assert {e["interaction_id"] for e in entries} == {e["interaction_id"] for e in usable[-len(entries) :]}


@given(users, st.booleans())
def test_a_history_longer_than_any_other_is_given_up_at_once_with_the_same_result(
    rows: list[list[tuple[bool, str, str]]], is_dated: bool
) -> None:
    interactions, history = make_interactions(rows, is_dated), HistorySettings(select="other_user")
    table = matching_table(interactions, make_split(interactions))
    found = match(interactions, table, history)
    with mock.patch.object(other_users, "_as_long_as_any", lambda wanted, entries: wanted):
        assert match(interactions, table, history).sort("interaction_id").equals(found.sort("interaction_id"))


def test_a_busy_user_among_others_takes_no_more_draws_than_they_have_entries() -> None:
    few = [[(True, "x", "t")] * 4] * 5
    interactions = make_interactions([*few, [(True, "y", "t")] * 300], is_dated=True)
    table = matching_table(interactions, make_split(interactions).with_columns(split=pl.lit("train")))
    with mock.patch.object(other_users, "_draw", wraps=other_users._draw) as draw:
        match(interactions, table, HistorySettings(select="other_user"))
    assert draw.call_count <= 4 * 4


@pytest.fixture
def files(tables: Ingested, tmp_path: Path) -> dict[str, Path]:
    split = split_users(tables.users, 0.2, 0.2, 42)
    members = split.filter(pl.col("split") == "train")
    named = {
        "sample": (tables.interactions.join(members, on="user_id", how="semi"), schemas.SAMPLES),
        "interactions": (tables.interactions, schemas.INTERACTIONS),
        "users": (tables.users, schemas.USERS),
        "items": (tables.items, schemas.ITEMS),
        "split": (split, schemas.SPLIT),
    }
    for name, (table, table_schema) in named.items():
        write_table(table, tmp_path / name, table_schema)
    return {name: tmp_path / name for name in named}


def rendered(files: dict[str, Path], k: int | None, n_buckets: int) -> pl.DataFrame:
    sample, interactions, people, items = (files[name] for name in ("sample", "interactions", "users", "items"))
    spec = make_spec(HistorySettings(max_entries=k, select="other_user"))
    buckets = [(n, n_buckets) for n in range(1, n_buckets + 1)]
    split = (files["split"], "train") if "split" in files else None
    return pl.concat([t for b in buckets for t in render_file(sample, interactions, people, items, spec, b, split)])


def test_buckets_and_chunks_give_the_same_prompts_and_the_audit_finds_nothing(
    files: dict[str, Path], tables: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, split = rendered(files, 4, 1), pl.read_parquet(files["split"])
    monkeypatch.setattr(prompts, "CHUNK", 60)
    assert rendered(files, 4, 3).sort("interaction_id").equals(whole.sort("interaction_id"))
    assert not audit_other_users(whole, tables.interactions, tables.interactions, split).height


def test_it_has_as_many_entries_as_the_own_one_of_about_as_many_characters(
    files: dict[str, Path], tables: Ingested
) -> None:
    """Nearly always, in data where many users are alike; the difference is small beside that to random users."""
    reviews = tables.interactions.with_columns(n_characters=pl.col("text").str.len_chars().cast(pl.Int64))
    own = earlier_reviews(pl.read_parquet(files["sample"]).join(reviews, on="interaction_id"), reviews)
    own = own.group_by("interaction_id", maintain_order=True).tail(4)
    own = own.group_by("interaction_id").agg(n=pl.len(), characters=pl.sum("n_characters"))
    both = rendered(files, 4, 1).join(own, on="interaction_id").explode("history_ids")
    both = both.join(reviews, left_on="history_ids", right_on="interaction_id", how="left")
    sizes = both.group_by("interaction_id").agg(
        pl.first("n"), pl.first("characters"), n_other=pl.count("n_characters"), other=pl.sum("n_characters")
    )
    assert (sizes["n"] == sizes["n_other"]).mean() > 0.9  # type: ignore[operator]
    assert (sizes["n_other"] <= sizes["n"]).all()
    close = (sizes["characters"] - sizes["other"]).abs().mean()
    apart = (sizes["characters"] - sizes["other"].shuffle(1)).abs().mean()
    assert close < apart / 2  # type: ignore[operator]


def test_another_seed_gives_another_history() -> None:
    """Users who do not differ in length."""
    texts = [(True, f"i{n}", "same") for n in range(4)]
    interactions = make_interactions([texts] * 30, is_dated=False)
    entries = matching_table(interactions, make_split(interactions))
    one, again, other = (
        match(interactions, entries, HistorySettings(select="other_user", seed=seed)) for seed in (1, 1, 2)
    )
    assert one.equals(again) and not one.equals(other)


def test_the_split_and_the_histories_must_be_given(files: dict[str, Path]) -> None:
    with pytest.raises(PersonaError, match="need the split of each user"):
        rendered({name: path for name, path in files.items() if name != "split"}, 4, 1)
    interactions = make_interactions([[(True, "i0", "x")]], is_dated=True)
    spec = make_spec(HistorySettings(select="other_user"))
    with pytest.raises(PersonaError, match="give `others` to `render`"):
        render(interactions, interactions, make_users(interactions), make_items(), spec)
