"""Repeated texts are planted and found, independent texts have none, and the order of rows does not matter."""

from __future__ import annotations

import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.audit import repeats
from persona.audit.checks import near_duplicates
from persona.audit.repeats import quoted_in_training, repeats_in_history, training_texts, two_accounts

ALPHABET = [chr(0x4E00 + n) for n in range(2000)]


def written(n: int, seed: int, length: int = 40) -> list[str]:
    """Texts that have nothing in common but characters."""
    rng = random.Random(seed)
    return ["".join(rng.choices(ALPHABET, k=length)) for _ in range(n)]


def reviews_of(texts: dict[str, list[str]]) -> pl.DataFrame:
    """Interactions of users, one a session."""
    rows = [(user, session, text) for user, own in texts.items() for session, text in enumerate(own)]
    table = pl.DataFrame(rows, schema={"user_id": pl.String, "session": pl.Int32, "text": pl.String}, orient="row")
    return table.with_row_index("interaction_id").with_columns(pl.col("interaction_id").cast(pl.Int64))


def last_prompts(reviews: pl.DataFrame) -> pl.DataFrame:
    """The prompt of each user's last review with all others in its history."""
    ids = reviews.sort("session").group_by("user_id", maintain_order=True).agg("interaction_id")
    return ids.select(
        "user_id",
        interaction_id=pl.col("interaction_id").list.last(),
        history_ids=pl.col("interaction_id").list.slice(0, pl.col("interaction_id").list.len() - 1),
    )


def found(reviews: pl.DataFrame) -> set[tuple[str, str, str]]:
    rows = repeats_in_history(last_prompts(reviews), reviews).select("check", "user_id", "detail").rows()
    return set(rows)


def test_independent_texts_repeat_nothing() -> None:
    assert not found(reviews_of({f"u{n}": written(20, n) for n in range(20)}))


def test_a_repeated_and_a_quoted_text_are_found() -> None:
    a, b, c, d = (written(3, seed) for seed in range(4))
    edited = a[1][:30] + "改" + a[1][31:]
    texts = {
        "edited": [*a, edited],
        # A run of 19 characters is too short, one of 20 is enough.
        "short": [*b, b[0][5:24] + written(1, 9)[0]],
        "quoted": [*c, written(1, 9)[0] + c[2][5:25]],
        # Few edits, far from each other: no run of 20.
        "scattered": [d[0][:34], d[0][:17] + "改" + d[0][18:34]],
        "too short": ["太好看了太好看了", "太好看了太好看了"],
    }
    assert found(reviews_of(texts)) == {
        ("repeated_in_history", "edited", "history entry 1"),
        ("quoted_in_history", "edited", "history entry 1"),
        ("quoted_in_history", "quoted", "history entry 10"),
        ("repeated_in_history", "scattered", "history entry 12"),
    }


def test_what_the_prompt_does_not_show_is_not_found() -> None:
    text = written(1, 0)[0]
    reviews = reviews_of({"later": [*written(1, 1), text, text], "other": [text]})
    prompts = pl.DataFrame({"user_id": ["later"], "interaction_id": [1], "history_ids": [[0]]})
    assert not repeats_in_history(prompts, reviews).height


def triples(text: str) -> set[str]:
    return {text[n : n + 3] for n in range(len(text) - 2)}


def by_hand(target: str, entry: str) -> set[str]:
    """The same two comparisons, pair by pair."""
    if min(len(target), len(entry)) < 20:
        return set()
    a, b = triples(target), triples(entry)
    runs = {target[n : n + 20] for n in range(len(target) - 19)}
    similar = len(a & b) >= 0.8 * len(a | b)
    quoted = any(run in entry for run in runs)
    return {name for name, is_so in (("repeated_in_history", similar), ("quoted_in_history", quoted)) if is_so}


@given(st.lists(st.lists(st.integers(0, 5), min_size=17, max_size=45), min_size=2, max_size=6), st.integers(0, 50))
def test_it_finds_what_a_comparison_of_all_pairs_finds(numbers: list[list[int]], seed: int) -> None:
    """Texts of few characters, one of them an edit of another, so that many pairs are near the limits."""
    rng = random.Random(seed)
    texts = ["".join("甲乙丙丁戊己"[n] for n in row) for row in numbers]
    copied = list(rng.choice(texts))
    for _ in range(rng.randrange(3)):
        copied[rng.randrange(len(copied))] = "庚"
    reviews = reviews_of({"u": [*texts, "".join(copied)], "v": written(3, seed)})
    expected = {check for entry in texts for check in by_hand("".join(copied), entry)}
    assert {check for check, _, _ in found(reviews)} == expected


def test_of_many_texts_with_much_in_common_the_same_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the shown pairs are compared one by one."""
    rng = random.Random(0)
    words = ["afternoon ", "evening ", "morning ", "yesterday ", "tomorrow "]
    reviews = reviews_of({"u": ["".join(rng.choices(words, k=rng.randint(2, 5))) for _ in range(60)]})
    ids = reviews["interaction_id"].to_list()
    prompts = pl.DataFrame(
        {"user_id": "u", "interaction_id": ids, "history_ids": [ids[max(0, n - 4) : n] for n in ids]}
    )
    prompts = prompts.cast({"history_ids": pl.List(pl.Int64)})
    by_grams = repeats_in_history(prompts, reviews).sort("check", "interaction_id")
    monkeypatch.setattr(repeats, "PAIRS_AT_ONCE", 1)
    one_by_one = repeats_in_history(prompts, reviews).sort("check", "interaction_id")
    assert one_by_one.equals(by_grams)
    texts = dict(reviews.select("interaction_id", "text").rows())
    expected = {
        (check, n) for n in ids for entry in ids[max(0, n - 4) : n] for check in by_hand(texts[n], texts[entry])
    }
    assert set(by_grams.select("check", "interaction_id").rows()) == expected and len(expected) > 10


def test_neither_the_order_of_rows_nor_the_parts_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = reviews_of({f"u{n}": [*written(4, n), written(4, n)[n % 4][:30]] for n in range(30)})
    prompts = last_prompts(reviews)
    whole = repeats_in_history(prompts, reviews).sort("check", "interaction_id")
    assert whole["interaction_id"].n_unique() == 30
    monkeypatch.setattr(repeats, "CHARACTERS_AT_ONCE", 500)
    monkeypatch.setattr(repeats, "PAIRS_AT_ONCE", 3)
    monkeypatch.setattr(repeats, "GRAMS_AT_ONCE", 50)
    shuffled = (table.sample(fraction=1.0, shuffle=True, seed=1) for table in (prompts, reviews))
    assert repeats_in_history(*shuffled).sort("check", "interaction_id").equals(whole)


def two_groups(reviews: pl.DataFrame, trained: str) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """The first review of each user as the target; users whose name begins so are trained on, the others are in val."""
    targets = reviews.filter(pl.col("session") == 0).select("interaction_id", "user_id", item_id=pl.lit("film"))
    is_trained = pl.col("user_id").str.starts_with(trained)
    return targets.filter(is_trained), {"val": targets.filter(~is_trained), "test": targets.head(0)}


def test_two_accounts_of_one_person_are_found_and_common_texts_are_not() -> None:
    common, long, twice = written(1, 90)[0], written(1, 91, 120)[0], written(2, 92)
    texts = {f"train{n}": [*written(3, n), common] for n in range(8)} | {
        f"val{n}": written(3, 20 + n) for n in range(8)
    }
    texts["val0"] += [f"{text[:20]}，{text[20:]}！" for text in twice]  # with other punctuation
    texts["train3"] += twice
    texts["val1"] += [long]
    texts["train4"] += [long]
    texts["val2"] += [common, twice[0]]  # one text in common, and one that many wrote
    texts["val3"] += [written(3, 6)[0][:19], written(3, 6)[1][:19]]  # too short
    texts["val4"] += written(3, 25)  # texts of val5
    reviews = reviews_of(texts)
    result = two_accounts(*two_groups(reviews, "train"), reviews)
    assert set(result.select("check", "user_id", "detail").rows()) == {
        ("two_accounts", "val0", "2 texts in common with user train3 of the training sample"),
        ("two_accounts", "val1", "1 texts in common with user train4 of the training sample"),
    }
    shuffled = reviews.sample(fraction=1.0, shuffle=True, seed=1)
    again = two_accounts(*two_groups(shuffled, "train"), shuffled)
    assert again.sort("interaction_id").equals(result.sort("interaction_id"))


def test_users_who_write_for_themselves_are_not_one_person() -> None:
    texts = {f"{group}{n}": written(10, 100 * n + len(group)) for group in ("train", "val") for n in range(50)}
    reviews = reviews_of(texts)
    assert not two_accounts(*two_groups(reviews, "train"), reviews).height


def test_a_val_text_in_the_history_of_a_training_prompt_is_found() -> None:
    """User a's target is the second review: the first is in its history, the third is in no prompt."""
    own, foreign = written(2, 0), written(2, 1)
    reviews = reviews_of({"a": [foreign[0], own[0], foreign[1]], "b": [foreign[0] + "！"], "c": [foreign[1] + "！"]})
    keys = reviews.select("interaction_id", "user_id", item_id=pl.lit("film"))
    sample, val = keys.filter(pl.col("interaction_id") == 1), keys.filter(pl.col("user_id") != "a")
    split = pl.DataFrame({"user_id": ["a", "b", "c"], "split": ["train", "val", "val"]})
    training = training_texts(sample, reviews, split)
    assert training["interaction_id"].to_list() == [0, 1]
    duplicates = near_duplicates(training, {"val": val}, reviews.select("interaction_id", "text"))
    assert duplicates.select("user_id", "detail").rows() == [("b", "like training text 0")]


def test_what_is_hidden_from_training_prompts_is_no_training_text() -> None:
    reviews = reviews_of({"a": written(3, 0)})
    split = reviews.select("user_id", "interaction_id", split=pl.Series(["test", "train", "train"]))
    training = training_texts(reviews.filter(pl.col("session") == 2), reviews, split)
    assert training["interaction_id"].to_list() == [1, 2]


def test_a_val_text_within_a_longer_text_of_a_training_user_is_found() -> None:
    own, foreign = written(4, 0), written(4, 1)
    texts = {
        "train0": [own[0] + foreign[0] + own[1]],
        "train1": ["「" + foreign[0][:20] + "，" + foreign[0][20:] + "」，这句最好。"],  # with other punctuation
        "train2": [own[2] + foreign[1][:30]],  # a part of a text
        "train3": [own[3] + foreign[2][:19]],
        "val0": [foreign[0] + "！"],
        "val1": [foreign[1]],
        "val2": [foreign[2][:19]],  # too short
        "val3": [foreign[3] + foreign[0]],  # the quotation is in val
        "val4": ["！" * 30],
    }
    reviews = reviews_of(texts)
    sample, cohorts = two_groups(reviews, "train")
    training = reviews.join(sample, on="interaction_id", how="semi")
    result = quoted_in_training(training, cohorts, reviews.select("interaction_id", "text"))
    assert result.rows() == [("quoted_in_training", 4, "val0", "within training text 0 of user train0")]
    # What a user writes again is no quotation by another one.
    assert (
        not quoted_in_training(reviews, cohorts, reviews.select("interaction_id", "text"))
        .filter(pl.col("user_id") == "val1")
        .height
    )


@given(st.lists(st.lists(st.integers(0, 1), min_size=19, max_size=24), min_size=2, max_size=12))
def test_it_finds_the_quotations_that_a_search_finds(numbers: list[list[int]]) -> None:
    texts = ["".join("甲乙"[n] for n in row) for row in numbers]
    reviews = reviews_of({f"{('train', 'val')[n % 2]}{n}": [text] for n, text in enumerate(texts)})
    sample, cohorts = two_groups(reviews, "train")
    training = reviews.join(sample, on="interaction_id", how="semi")
    result = quoted_in_training(training, cohorts, reviews.select("interaction_id", "text"))
    trained = texts[::2]
    expected = {
        f"val{n}" for n in range(1, len(texts), 2) if len(texts[n]) > 19 and any(texts[n] in t for t in trained)
    }
    assert set(result["user_id"]) == expected


def test_a_phrase_that_many_write_is_found_with_another_user() -> None:
    phrase = written(1, 0)[0]
    texts = {f"train{n}": [phrase] for n in range(5)} | {f"val{n}": [phrase] for n in range(5)}
    reviews = reviews_of(texts | {"train0": [phrase, phrase, phrase]})
    _, cohorts = two_groups(reviews, "train")
    # Of two users here, the first training text is one's own.
    training = reviews.filter(pl.col("user_id").is_in(["train0", "train1", "val0"]))
    targets = {
        "val": pl.concat([cohorts["val"], two_groups(reviews, "val")[1]["val"].head(1)]),
        "test": cohorts["test"],
    }
    result = quoted_in_training(training, targets, reviews.select("interaction_id", "text"))
    details = dict(result.select("user_id", "detail").rows())
    assert details["val1"] == "within training text 0 of user train0"
    assert (
        details["train0"]
        == f"within training text {reviews.filter(user_id='train1')['interaction_id'][0]} of user train1"
    )
    assert len(details) == 6


def test_quotations_are_found_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {f"train{n}": [written(1, n)[0] + written(1, 100 + n % 3)[0]] for n in range(9)}
    reviews = reviews_of(texts | {f"val{n}": written(1, 100 + n) for n in range(5)})
    sample, cohorts = two_groups(reviews, "train")
    training, by_id = reviews.join(sample, on="interaction_id", how="semi"), reviews.select("interaction_id", "text")
    whole = quoted_in_training(training, cohorts, by_id)
    assert whole["user_id"].to_list() == ["val0", "val1", "val2"]
    monkeypatch.setattr(repeats, "TEXTS_AT_ONCE", 2)
    assert quoted_in_training(training.sample(fraction=1.0, shuffle=True, seed=1), cohorts, by_id).equals(whole)
