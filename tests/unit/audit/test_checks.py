"""Each leak is planted and found; clean data has none."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from persona.audit.checks import (
    FINDING,
    audit_days,
    audit_other_users,
    audit_prompts,
    audit_rendering,
    audit_sample,
    audit_splits,
    check_findings,
    hidden_in_history,
    near_duplicates,
    stars_named,
)
from persona.entries.other_users import OtherUsers
from persona.entries.settings import HistorySettings
from persona.errors import PersonaError
from persona.ingestion.ingest import Ingested
from persona.prompts import Parts, PromptSpec, Style, load_style, render
from persona.sampling import sample_targets
from persona.splitting import split_by_item, split_by_time, split_users
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.tables.splits import SPLITS, shown_reviews

ROOT = Path(__file__).parents[3]
PARTS = Parts(profile=True, history=True, context=False)
SETTINGS = {"split_name": "train", "max_samples_per_user": 2, "max_users": None, "min_history": 0, "sample_seed": 42}


@pytest.fixture(scope="module")
def style() -> Style:
    return load_style(ROOT / "config" / "prompts" / "detailed.yaml")


@pytest.fixture(scope="module")
def split(tables: Ingested) -> pl.DataFrame:
    return split_users(tables.users, 0.2, 0.2, 42)


@pytest.fixture(scope="module")
def samples(tables: Ingested, split: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {name: sample_targets(tables.interactions, split, name, 2, None, 42) for name in ("train", "val", "test")}


@pytest.fixture(scope="module")
def prompts(tables: Ingested, samples: dict[str, pl.DataFrame], style: Style) -> pl.DataFrame:
    t = tables
    return render(samples["train"], t.interactions, t.users, t.items, PromptSpec(style, PARTS, "任务", "影评："))


def cohorts(samples: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return {name: samples[name] for name in ("val", "test")}


def with_entry(prompts: pl.DataFrame, history_id: pl.Expr) -> pl.DataFrame:
    """The first prompt with a history, one more entry in it."""
    first = prompts.filter(pl.col("history_ids").list.len() > 0).head(1)
    return first.with_columns(history_ids=pl.concat_list("history_ids", history_id))


def test_clean_prompts_have_no_findings(
    tables: Ingested, prompts: pl.DataFrame, samples: dict[str, pl.DataFrame], split: pl.DataFrame, style: Style
) -> None:
    t = tables
    assert prompts["history_ids"].list.len().sum() > 50
    assert not audit_prompts(prompts, t.interactions).height
    spec = PromptSpec(style, PARTS, "任务", "影评：")
    assert not audit_rendering(prompts, t.interactions, t.users, t.items, spec, 100).height
    assert not audit_sample(samples["train"], t.interactions, split, SETTINGS).height
    old = sample_targets(t.interactions, split, "train", 2, 30, 42, min_history=3)
    assert 0 < old.height < samples["train"].height
    assert not audit_sample(old, t.interactions, split, SETTINGS | {"max_users": 30, "min_history": 3}).height
    assert not audit_splits(samples["train"], cohorts(samples), split).height


def test_an_item_in_two_splits_is_found_where_items_are_split(
    samples: dict[str, pl.DataFrame], split: pl.DataFrame
) -> None:
    """Here users were split, so every film is everywhere."""
    found = audit_splits(samples["train"], cohorts(samples), split, by="item")
    assert set(found["check"]) == {"item_in_two_splits"}


def test_lines_of_the_same_item_are_no_leak(tables: Ingested, prompts: pl.DataFrame) -> None:
    """Where users write about an item more than once, as characters speak in a film."""
    one_film = tables.interactions.with_columns(item_id=pl.lit("film"))
    assert not audit_prompts(prompts, one_film).height
    future = with_entry(prompts, pl.col("interaction_id"))
    assert set(audit_prompts(future, one_film)["check"]) == {"history_not_earlier"}


def test_a_future_and_a_same_day_entry_are_found(tables: Ingested, prompts: pl.DataFrame) -> None:
    """The target itself is of its own day."""
    planted = with_entry(prompts, pl.col("interaction_id"))
    found = audit_prompts(planted, tables.interactions)
    assert set(found["check"]) == {"history_not_earlier", "history_of_target_film"}
    assert found["interaction_id"].unique().to_list() == planted["interaction_id"].to_list()


def test_another_users_entry_is_found(tables: Ingested, prompts: pl.DataFrame) -> None:
    first = with_entry(prompts, pl.col("interaction_id"))
    foreign = tables.interactions.filter(pl.col("user_id") != first["user_id"][0]).sort("day")["interaction_id"][0]
    found = audit_prompts(with_entry(prompts, pl.lit(foreign)), tables.interactions)
    assert "history_of_another_user" in found["check"].to_list()


@pytest.fixture(scope="module")
def control(
    tables: Ingested, samples: dict[str, pl.DataFrame], split: pl.DataFrame, style: Style,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pl.DataFrame, OtherUsers, PromptSpec]:  # fmt: skip
    """Prompts with the history of another user."""
    folder = tmp_path_factory.mktemp("control")
    write_table(tables.interactions, folder / "interactions", schemas.INTERACTIONS)
    write_table(split, folder / "split", schemas.SPLIT)
    spec = PromptSpec(style, PARTS, "任务", "影评：", HistorySettings(select="other_user"))
    others = OtherUsers.load(folder / "interactions", folder / "split", spec.history)
    t = tables
    histories = others.histories_of(samples["train"])
    return render(samples["train"], t.interactions, t.users, t.items, spec, histories), others, spec


def test_the_control_has_no_findings_and_would_be_one_in_another_arm(
    tables: Ingested, split: pl.DataFrame, control: tuple[pl.DataFrame, OtherUsers, PromptSpec]
) -> None:
    prompts, others, spec = control
    t = tables
    assert prompts["history_ids"].list.len().sum() > 50
    assert not audit_other_users(prompts, t.interactions, t.interactions, split).height
    assert not audit_rendering(prompts, t.interactions, t.users, t.items, spec, 100, others).height
    assert "history_of_another_user" in audit_prompts(prompts, t.interactions)["check"]


def test_leaks_in_the_control_are_found(
    tables: Ingested, split: pl.DataFrame, prompts: pl.DataFrame, control: tuple[pl.DataFrame, OtherUsers, PromptSpec]
) -> None:
    """The own history, the future, users of test, and several users at once."""
    reviews = tables.interactions

    def found(planted: pl.DataFrame) -> set[str]:
        return set(audit_other_users(planted, reviews, reviews, split)["check"])

    assert found(prompts) == {"history_of_own_user"}
    last, tested = reviews.sort("day", "interaction_id"), split.filter(pl.col("split") == "test")
    late = last.join(split.filter(pl.col("split") == "train"), on="user_id")["interaction_id"][-1]
    early = last.join(tested, on="user_id")["interaction_id"][0]
    assert "history_not_earlier" in found(with_entry(control[0], pl.lit(late)))
    kinds = found(with_entry(control[0].filter(pl.col("history_ids").list.len() > 0), pl.lit(early)))
    assert {"history_of_another_split", "history_of_several_users"} <= kinds
    assert "history_of_target_film" in found(with_entry(control[0], pl.col("interaction_id")))


def test_likes_in_a_prompt_are_found(tables: Ingested, prompts: pl.DataFrame, style: Style) -> None:
    likes = tables.interactions.select("interaction_id", "likes")
    leaky = prompts.join(likes, on="interaction_id").with_columns(
        prompt=pl.when(pl.col("likes") > 0).then(pl.format("{}（{}赞）", "prompt", "likes")).otherwise("prompt")
    )
    t = tables
    found = audit_rendering(leaky, t.interactions, t.users, t.items, PromptSpec(style, PARTS, "任务", "影评："), 10_000)
    assert set(found["interaction_id"]) == set(leaky.filter(pl.col("likes") > 0)["interaction_id"])
    assert found.height


def test_a_sample_of_the_most_liked_reviews_is_found(
    tables: Ingested, samples: dict[str, pl.DataFrame], split: pl.DataFrame
) -> None:
    members = split.filter(pl.col("split") == "train")
    liked = tables.interactions.join(members, on="user_id", how="semi").sort("likes", descending=True)
    most = liked.group_by("user_id", maintain_order=True).head(2).select(samples["train"].columns)
    found = audit_sample(most, tables.interactions, split, SETTINGS)
    assert set(found["check"]) == {"likes_in_sampling"}


def test_a_user_in_two_splits_is_found(samples: dict[str, pl.DataFrame], split: pl.DataFrame) -> None:
    stray = samples["test"].head(1)
    found = audit_splits(pl.concat([samples["train"], stray]), cohorts(samples), split)
    assert set(found["check"]) == {"user_in_two_splits", "user_of_another_split"}
    assert set(found["user_id"]) == set(stray["user_id"])


def test_by_time_a_target_outside_of_its_time_is_found(tables: Ingested) -> None:
    days = tables.interactions["day"].sort()
    val_from, test_from = days[int(0.6 * len(days))], days[int(0.8 * len(days))]
    split = split_by_time(tables.interactions, val_from, test_from)
    samples = {name: sample_targets(tables.interactions, split, name, 2, None, 42) for name in SPLITS}
    shared = samples["train"].join(samples["test"], on="user_id", how="semi")
    assert shared.height, "known users are tested"
    assert not audit_splits(samples["train"], cohorts(samples), split, by="time").height
    assert not audit_days(samples["train"], cohorts(samples), tables.interactions, val_from, test_from).height
    assert not audit_sample(samples["train"], tables.interactions, split, SETTINGS).height

    stray = samples["val"].head(1)
    planted = pl.concat([samples["train"], stray])
    assert set(audit_splits(planted, cohorts(samples), split, by="time")["check"]) == {"target_of_another_split"}
    found = audit_days(planted, cohorts(samples), tables.interactions, val_from, test_from)
    assert found.select("check", "interaction_id").rows() == [("day_of_another_split", stray["interaction_id"][0])]
    # A day later val begins a day later: what was written on its first day is no longer in it.
    later = val_from + timedelta(days=1)
    found = audit_days(samples["train"], cohorts(samples), tables.interactions, later, date.max)
    first = samples["val"].join(tables.interactions.filter(pl.col("day") == val_from), on="interaction_id", how="semi")
    assert set(found["interaction_id"]) == {*first["interaction_id"], *samples["test"]["interaction_id"]}


def test_by_item_an_item_or_an_entry_of_a_later_split_is_found(tables: Ingested, style: Style) -> None:
    t = tables
    split = split_by_item(t.interactions, 0.2, 0.3, 42)
    samples = {name: sample_targets(t.interactions, split, name, 2, None, 42) for name in SPLITS}
    assert not audit_splits(samples["train"], cohorts(samples), split, by="item").height
    spec = PromptSpec(style, PARTS, "任务", "影评：")
    unseen = t.interactions.join(split.filter(pl.col("split") != "train"), on="interaction_id", how="semi")
    for name in SPLITS:
        shown = shown_reviews(t.interactions, split, name)
        prompts = render(samples[name], shown, t.users, t.items, spec)
        assert prompts["history_ids"].list.len().sum() > 50
        assert not audit_prompts(prompts, t.interactions).height
        assert not hidden_in_history(prompts, split, name).height
        if name == "train":
            histories = prompts.explode("history_ids")["history_ids"].drop_nulls()
            assert not set(histories) & set(unseen["interaction_id"])

    stray = samples["test"].head(1)
    planted = pl.concat([samples["train"], stray])
    found = audit_splits(planted, cohorts(samples), split, by="item")
    assert set(found["check"]) == {"item_in_two_splits", "target_of_another_split"}
    careless = render(samples["train"], t.interactions, t.users, t.items, spec)
    found = hidden_in_history(careless, split, "train")
    history = careless.explode("history_ids").filter(pl.col("history_ids").is_in(unseen["interaction_id"].implode()))
    assert found.height == history.height > 0 and set(found["check"]) == {"history_of_later_split"}


def test_near_duplicates_across_splits_are_found() -> None:
    long = "这部电影从头到尾都让我觉得非常无聊，演员的表演也很尴尬，不推荐大家去看"
    texts = pl.DataFrame(
        {
            "interaction_id": [1, 2, 3, 4, 5],
            "text": [
                long,
                f"{long}！",
                "太好看了",
                "太好看了",
                "完全不同的一条影评，讲的是音乐和画面如何动人",
            ],
        }
    )
    keys = texts.select("interaction_id", user_id=pl.format("u{}", "interaction_id"), item_id=pl.lit("film"))
    found = near_duplicates(
        keys.filter(pl.col("interaction_id").is_in([1, 3])),
        {
            "val": keys.filter(pl.col("interaction_id") == 5),
            "test": keys.filter(pl.col("interaction_id").is_in([2, 4])),
        },
        texts,
    )
    assert found.select("interaction_id", "user_id", "detail").rows() == [(2, "u2", "like training text 1")]


def test_named_stars_are_found(samples: dict[str, pl.DataFrame], tables: Ingested) -> None:
    target = samples["test"]["interaction_id"][0]
    texts = tables.interactions.select(
        "interaction_id",
        text=pl.when(pl.col("interaction_id") == target).then(pl.lit("给三星")).otherwise("text"),
    )
    found = stars_named(cohorts(samples), texts)
    assert found.filter(pl.col("interaction_id") == target)["detail"].to_list() == ["三星"]


def test_a_finding_over_its_allowance_names_its_rows() -> None:
    rows = [("star_named", 7, "a", "三星"), ("star_named", 8, "b", "四星")]
    findings = pl.DataFrame(rows, schema=FINDING, orient="row")
    assert check_findings(findings, 20, {"star_named": 0.1}, "f.csv") == {"star_named": 2}
    with pytest.raises(PersonaError, match=r"star_named: 2 of 19 .* interaction 7 of user a \(三星\).*f\.csv"):
        check_findings(findings, 19, {"star_named": 0.1}, "f.csv")
    with pytest.raises(PersonaError, match="history_not_earlier: 2 of 20 targets, none is ever allowed"):
        check_findings(findings.with_columns(check=pl.lit("history_not_earlier")), 20, {"star_named": 0.1}, "f.csv")


def test_all_findings_are_told_at_once_each_with_the_key_that_allows_it() -> None:
    rows = [("star_named", 7, "a", "三星"), ("near_duplicate", 8, "b", "like training text 1")]
    findings = pl.DataFrame(rows, schema=FINDING, orient="row")
    with pytest.raises(PersonaError) as error:
        check_findings(findings, 10, {"star_named": 0.05, "near_duplicate": 0.0}, "f.csv")
    for key in ("audit.star_named allows 5.0%", "audit.near_duplicate allows 0.0%"):
        assert key in str(error.value)
