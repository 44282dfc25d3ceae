"""Compute the metrics of one model, with their intervals, from its rows. No model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from persona.evaluation.comparison import mean_of_seeds
from persona.evaluation.metrics import authors, stars, texts
from persona.evaluation.metrics.balance import add_balanced_gaps
from persona.evaluation.metrics.intervals import Estimate, codes, estimate, estimate_columns
from persona.evaluation.metrics.users import user_effects, user_shares
from persona.evaluation.settings import GREEDY, SAMPLE

Metrics = dict[str, Any]

MIN_SUBGROUP = 10  # targets
SUBGROUP_METRICS = ("nll", "swap_gap", "acc")


def likelihood_metrics(seeds: list[pl.DataFrame], candidates: int) -> Metrics:
    """NLL, swap gap and author identification of scored targets, as estimates with 95 % intervals over users and items.

    Values are averaged over seeds per target. `swap_gap_users` says how many users the prompt helps.

    Args:
        seeds: one table of `schemas.SCORES` per seed.
        candidates: number of users among whom an author is identified.
    """
    scores = mean_of_seeds(seeds)
    test = add_balanced_gaps(authors.add_swap_gaps(scores.filter(pl.col("cohort") == "test")))
    metrics: Metrics = {"nll": _per_character(test, "nll")}
    val = scores.filter(pl.col("cohort") == "val")
    if val.height:
        metrics["val_nll"] = _per_character(val, "nll")
    swapped = test.drop_nulls("swap_gap")
    if swapped.height:
        metrics |= {
            "swap_gap": _per_character(swapped, "swap_gap_balanced"),
            "swap_gap_users": user_shares(user_effects(swapped, "swap_gap_balanced", "n_characters")),
            "format_gap": _per_character(swapped, "format_gap_balanced"),
        }
    return metrics | author_metrics([table.filter(pl.col("cohort") == "test") for table in seeds], test, candidates)


def subgroups(targets: pl.DataFrame) -> dict[str, pl.Series]:
    """Ids of the test targets with and without history, with and without a conversation before the text.

    Args:
        targets: `schemas.TARGETS`.
    """
    test = targets.filter(pl.col("cohort") == "test")
    conditions = {
        "with_history": pl.col("n_history") > 0,
        "without_history": pl.col("n_history") == 0,
        "with_context": pl.col("n_context") > 0,
        "without_context": pl.col("n_context") == 0,
    }
    return {name: test.filter(condition)["interaction_id"] for name, condition in conditions.items()}


def subgroup_metrics(seeds: list[pl.DataFrame], targets: pl.DataFrame, candidates: int) -> dict[str, Metrics]:
    """NLL, swap gap and acc@1 of each of the `subgroups` that has at least `MIN_SUBGROUP` targets, but not all."""
    metrics = {}
    n_test = targets.filter(pl.col("cohort") == "test").height
    for name, ids in subgroups(targets).items():
        if MIN_SUBGROUP <= len(ids) < n_test:
            rows = [table.filter(pl.col("interaction_id").is_in(ids.implode())) for table in seeds]
            found = likelihood_metrics(rows, candidates)
            metrics[name] = {"targets": len(ids)} | {key: found[key] for key in SUBGROUP_METRICS if key in found}
    return metrics


def author_metrics(seeds: list[pl.DataFrame], targets: pl.DataFrame, candidates: int) -> Metrics:
    """acc@1 and mean reciprocal rank: raw, double-centred, and pooled over the reviews of each user.

    Args:
        seeds: one table of `schemas.AUTHORS` or `schemas.SCORES` per seed.
        targets: with `interaction_id`, `user_id`, `item_id`.
        candidates: number of users among whom an author is identified.
    """
    keys = targets.select("interaction_id", "user_id", "item_id")
    ranks = mean_ranks(seeds, candidates).join(keys, on="interaction_id")
    metrics = {name: _mean(ranks[name], ranks) for name in ("acc", "mrr", "acc_centred", "mrr_centred") if ranks.height}
    pooled = pl.concat([authors.pooled_ranks(table, candidates) for table in seeds]).group_by("user_id").mean()
    # The item of a user who belongs to one, such as the character of a film; otherwise the user alone.
    item = pl.when(pl.col("item_id").n_unique() == 1).then(pl.col("item_id").first()).otherwise("user_id")
    pooled = pooled.join(keys.group_by("user_id").agg(item_id=item.first()), on="user_id").sort("user_id")
    return metrics | {f"{name}_pooled": _mean(pooled[name], pooled) for name in ("acc", "mrr") if pooled.height}


def mean_ranks(seeds: list[pl.DataFrame], candidates: int) -> pl.DataFrame:
    """`authors.author_ranks`, averaged over seeds per target."""
    ranks = pl.concat([authors.author_ranks(table, candidates) for table in seeds])
    return ranks.group_by("interaction_id").mean().sort("interaction_id")


def star_metrics(seeds: list[pl.DataFrame], targets: pl.DataFrame) -> dict[str, Metrics]:
    """Metrics of the star probabilities, for all rated test targets and for those whose text does not name a star."""
    known = targets.select("interaction_id", "rating", "history_mean", "names_star")
    scored = [table.filter(pl.col("cohort") == "test").join(known, on="interaction_id") for table in seeds]
    slices = {"all": scored, "no_star_named": [rows.filter(~pl.col("names_star")) for rows in scored]}
    return {name: _asdict(stars.star_metrics(rows)) for name, rows in slices.items()}


def point_metrics(guesses: pl.DataFrame, targets: pl.DataFrame) -> Metrics:
    """Metrics of guessed stars without probabilities (`schemas.RATINGS` of one method)."""
    known = targets.filter(pl.col("cohort") == "test").drop_nulls("rating")
    rows = known.join(guesses.select("interaction_id", guess="rating"), on="interaction_id").sort("interaction_id")
    return _asdict(stars.point_metrics(rows, [rows["guess"].to_numpy()]))


def text_metrics(written: pl.DataFrame, targets: pl.DataFrame) -> Metrics:
    """Overlap with the real text, style, length and variety of one method's texts, one text per target.

    `*_normalised` is (score - floor) / (ceiling - floor) of the means over targets that have both. It is missing if
    the floor is not below the ceiling: then overlap does not distinguish the users of an item.
    """
    rows = written.rename({"text": "written"}).join(targets.drop("user_id", "item_id"), on="interaction_id")
    rows = rows.sort("interaction_id")
    made, real = rows["written"].to_list(), rows["text"].to_list()
    metrics: Metrics = {}
    overlaps: dict[str, Callable[[str, str], float]] = {"chrf": texts.chrf, "rouge_l": texts.rouge_l}
    if texts.are_chinese(targets["text"].to_list()):
        overlaps["bleu_zh"] = texts.bleu_zh
    for name, score in overlaps.items():
        values = [score(a, b) for a, b in zip(made, real, strict=True)]
        metrics[name] = _mean(pl.Series(values, dtype=pl.Float64), rows)
        metrics |= _between_floor_and_ceiling(name, score, rows.with_columns(value=pl.Series(values)))
    lengths = [texts.log_length_difference(a, b) for a, b in zip(made, real, strict=True)]
    return metrics | {
        "targets": rows.height,
        "log_length_difference": _mean(pl.Series(lengths, dtype=pl.Float64), rows),
        "style_distance": texts.style_distance(made, real),
        "distinct_1": texts.distinct(made, 1),
        "distinct_2": texts.distinct(made, 2),
        "self_bleu": texts.self_bleu(made),
        "distinct_2_real": texts.distinct(real, 2),
        "self_bleu_real": texts.self_bleu(real),
    }


def _between_floor_and_ceiling(name: str, score: Callable[[str, str], float], rows: pl.DataFrame) -> Metrics:
    both = rows.drop_nulls(["floor_text", "ceiling_text"])
    if not both.height:
        return {}
    value = float(both["value"].to_numpy().mean())
    floor, ceiling = (
        float(np.mean([score(other, real) for other, real in both.select(column, "text").iter_rows()]))
        for column in ("floor_text", "ceiling_text")
    )
    bounds = {f"{name}_floor": floor, f"{name}_ceiling": ceiling}
    return bounds | ({f"{name}_normalised": (value - floor) / (ceiling - floor)} if ceiling > floor else {})


def copy_metrics(
    generations: pl.DataFrame, targets: pl.DataFrame, prompts: pl.DataFrame, train_texts: list[str]
) -> Metrics:
    """How much of the sampled texts, and of the real texts, also occurs in the training texts or in the prompt."""
    corpus = texts.Corpus(train_texts)
    rows = generations.join(targets.select("interaction_id", real="text"), on="interaction_id")
    rows = rows.join(prompts.select("interaction_id", "prompt"), on="interaction_id").sort("interaction_id")
    metrics: Metrics = {}
    for name, column in (("generated", "text"), ("real", "real")):
        subset = rows[column].to_list()
        longest = corpus.longest(subset)
        metrics[name] = {
            "exact": float(np.mean([text in corpus.whole for text in subset])),
            "curve": texts.copy_curve(longest),
            "longest_from_training": float(np.mean(longest)),
            "longest_from_prompt": float(np.mean(texts.prompt_copies(subset, rows["prompt"].to_list()))),
            "length": float(np.mean([len(text) for text in subset])),
        }
    return metrics


def without_impostors(scores: pl.DataFrame) -> pl.DataFrame:
    """Scores (`schemas.SCORES`) as if no text had been scored under other users' prompts."""
    nothing = [pl.lit(None, scores.schema[name]).alias(name) for name in ("impostor_ids", "nll_impostors")]
    return scores.with_columns(nothing)


def stage_metrics(
    seeds: list[pl.DataFrame],
    generations: pl.DataFrame,
    targets: pl.DataFrame,
    prompts: pl.DataFrame,
    train_texts: list[str],
    candidates: int,
    shows_user: bool = True,
) -> Metrics:
    """All metrics of one model.

    Args:
        seeds: one table of `schemas.SCORES` per seed.
        generations: `schemas.GENERATIONS` of the first seed.
        targets: `schemas.TARGETS`.
        prompts: `interaction_id` and `prompt` of the test targets.
        train_texts: the texts that the model was trained on.
        candidates: number of users among whom an author is identified.
        shows_user: whether prompts may show a profile or history. Otherwise prompts differ by the user's hash alone,
            and what is computed under impostors' prompts (swap gap, author) is not asked.
    """
    test = seeds[0].filter(pl.col("cohort") == "test")
    judged = seeds if shows_user else [without_impostors(table) for table in seeds]
    first = generations.filter(pl.col("draw") == 0)
    methods = {method: first.filter(pl.col("method") == method) for method in (GREEDY, SAMPLE)}
    return {
        "likelihood": likelihood_metrics(judged, candidates),
        "subgroups": subgroup_metrics(judged, targets, candidates),
        "stars": star_metrics(seeds, targets),
        "texts": {method: text_metrics(rows, targets) for method, rows in methods.items() if rows.height},
        "copying": copy_metrics(methods[SAMPLE] if methods[SAMPLE].height else first, targets, prompts, train_texts),
        "unfinished": float((generations["stop_reason"] == "length").mean()),  # type: ignore[arg-type]
        "counts": {
            "targets": test.height,
            "users": test["user_id"].n_unique(),
            "with_impostors": int((test["impostor_ids"].list.len() > 0).sum()),
            "with_candidates": int((test["impostor_ids"].list.len() >= candidates - 1).sum()),
            "seeds": len(seeds),
            "generated": generations["interaction_id"].n_unique(),
        },
    }


def baseline_metrics(
    ngram: pl.DataFrame,
    authors: pl.DataFrame,
    guesses: pl.DataFrame,
    written: pl.DataFrame,
    targets: pl.DataFrame,
    generated_for: list[int],
    candidates: int,
) -> Metrics:
    """The metrics of the baselines; those of texts are on the targets `generated_for`, as for the models."""
    subset = written.filter(pl.col("interaction_id").is_in(generated_for))
    return {
        "ngram": likelihood_metrics([ngram], candidates),
        "tfidf_authors": author_metrics([authors.filter(pl.col("cohort") == "test")], targets, candidates),
        "ratings": {
            method: point_metrics(rows, targets)
            for (method,), rows in guesses.sort("method").group_by(["method"], maintain_order=True)
        },
        "texts": {
            method: text_metrics(rows, targets)
            for (method,), rows in subset.sort("method").group_by(["method"], maintain_order=True)
        },
    }


def _per_character(rows: pl.DataFrame, column: str) -> Metrics:
    """In nats per character."""
    return estimate_columns(rows, column, "n_characters").as_json()


def _mean(values: pl.Series, rows: pl.DataFrame) -> Metrics:
    features = np.column_stack([values.to_numpy(), np.ones(len(values))])
    return estimate(features, codes(rows["user_id"]), codes(rows["item_id"])).as_json()


def _asdict(estimates: dict[str, Estimate]) -> Metrics:
    return {name: value.as_json() for name, value in estimates.items()}
