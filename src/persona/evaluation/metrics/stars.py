"""How well stars are predicted: as probabilities, as an expected star, and as a ranking of the users of an item."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from persona.evaluation.metrics.intervals import Estimate, Floats, Ints, codes, estimate, from_influence, gradient

N_STARS = 5
BINS = 10
PAIRED_ROWS = 500  # rows of pairs held at once

_SQUARES = (np.arange(N_STARS)[:, None] - np.arange(N_STARS)) ** 2 / (N_STARS - 1) ** 2


def why_no_stars(ratings: pl.Series) -> str | None:
    """Why ratings have no measures of stars, in one line: one is not a whole number from 1 to 5. None if all are."""
    known = ratings.drop_nulls()
    others = known.filter(~known.is_in([float(star) for star in range(1, N_STARS + 1)]))
    if not len(others):
        return None
    return f"stars are not asked for: ratings are not whole numbers from 1 to {N_STARS}, such as {others[0]:g}"


def star_array(scores: pl.DataFrame) -> Floats:
    """The column `stars` as `[N, 5]`."""
    return np.array(scores["stars"].to_list(), dtype=float).reshape(-1, N_STARS)


def normalised(stars: Floats) -> Floats:
    """Probabilities `[N, 5]` scaled to sum to 1."""
    return np.asarray(stars / stars.sum(1, keepdims=True))


def expected_star(stars: Floats) -> Floats:
    """Mean star `[N]` under the normalised probabilities."""
    return np.asarray(normalised(stars) @ np.arange(1, N_STARS + 1))


def squared_error(guess: Floats, truth: Floats) -> Floats:
    """Features whose `root_mean` is the RMSE = sqrt(mean((guess - truth)^2))."""
    return np.column_stack([(guess - truth) ** 2, np.ones(len(truth))])


def root_mean(sums: Floats) -> Floats:
    """Square root of the first feature's mean."""
    return np.asarray(np.sqrt(sums[..., 0] / sums[..., 1]))


def median_star(stars: Floats) -> Ints:
    """The median of the normalised probabilities `[N]`, which minimises the mean absolute error (MAE)."""
    # Slightly less than half, so that a rounding error does not decide.
    return np.asarray(1 + (normalised(stars).cumsum(1) < 0.5 - 1e-9).sum(1))


def agreement(guess: Ints, truth: Ints) -> Floats:
    """Features for `quadratic_kappa`: the flattened 5 x 5 table of (truth, guess)."""
    table = np.zeros((len(truth), N_STARS, N_STARS))
    table[np.arange(len(truth)), truth - 1, guess - 1] = 1
    return table.reshape(len(truth), -1)


def quadratic_kappa(sums: Floats) -> Floats:
    """Quadratically weighted kappa 1 - sum(w O) / sum(w E), w = (i - j)^2 / 16 (Cohen, Psychol. Bulletin 1968)."""
    observed = sums.reshape(*sums.shape[:-1], N_STARS, N_STARS)
    total = observed.sum((-1, -2))[..., None, None]
    expected = observed.sum(-1)[..., :, None] * observed.sum(-2)[..., None, :] / total
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - (_SQUARES * observed).sum((-1, -2)) / (_SQUARES * expected).sum((-1, -2)))


def ranked_probability_score(stars: Floats, truth: Ints) -> Floats:
    """Per target sum over s = 1..4 of (P(star <= s) - [truth <= s])^2 / 4 (Epstein, J. Appl. Meteorology 1969).

    0 is a perfect prediction; 1 is certainty of the opposite end of the scale.
    """
    cumulative = normalised(stars).cumsum(1)[:, :-1]
    happened = truth[:, None] <= np.arange(1, N_STARS)
    return np.asarray(((cumulative - happened) ** 2).mean(1))


def calibration(stars: Floats, truth: Ints) -> Floats:
    """Features for `calibration_error`: for each star and bin of probability, the probabilities and the hits."""
    p = normalised(stars)
    index = np.minimum((p * BINS).astype(int), BINS - 1)
    features = np.zeros((len(truth), 2, N_STARS, BINS))
    rows, classes = np.arange(len(truth))[:, None], np.arange(N_STARS)[None]
    features[rows, 0, classes, index] = p
    features[rows, 1, classes, index] = classes + 1 == truth[:, None]
    return features.reshape(len(truth), -1)


def calibration_error(sums: Floats) -> Floats:
    """Class-wise expected calibration error: mean over stars of sum over bins |sum p - hits| / N (Kull et al. 2019)."""
    both = sums.reshape(*sums.shape[:-1], 2, N_STARS, BINS)
    # The probabilities of a target sum to 1, so the sum over all targets is their number.
    n = both[..., 0, :, :].sum((-1, -2))
    return np.asarray(np.abs(both[..., 0, :, :] - both[..., 1, :, :]).sum((-1, -2)) / N_STARS / n)


def within_item_tau(guesses: Floats, truth: Floats, user_mean: Floats, items: Ints, users: Ints) -> Estimate:
    """Kendall's tau-b of (star - the user's mean) between guess and truth, over pairs of reviews of the same item.

    tau-b = (concordant - discordant) / sqrt(pairs untied in guess x pairs untied in truth) (Kendall, Biometrika
    1945), with pairs pooled over items. It says whether the model knows who likes an item more than that user
    likes items on average. The user's mean is subtracted from both sides, so even a constant guess has a tau above 0:
    compare with the tau of the global mean.

    Args:
        guesses: `[seeds, targets]`; the value of a pair is its mean over the seeds.
        truth, user_mean: `[targets]`, in stars.
        items, users: `[targets]`, numbered from 0.
    """
    features = np.zeros((len(items), 3))
    for item in np.unique(items):
        members = np.flatnonzero(items == item)
        for some in np.array_split(members, len(members) // PAIRED_ROWS + 1):
            features[some] = _pair_sums(guesses - user_mean, truth - user_mean, some, members)
    value = float(_tau(features.sum(0)))
    # Each pair is in the sums of both of its targets. So it counts for two targets, but for one item.
    influence = features @ gradient(features.sum(0), _tau)
    return from_influence(value, 2 * influence, users, items, item_influence=influence)


def _tau(sums: Floats) -> Floats:
    """From the sums over pairs of concordance, of guesses that are not tied, and of truths that are not tied."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / np.sqrt(sums[..., 1] * sums[..., 2]))


def _pair_sums(guesses: Floats, truth: Floats, some: Ints, members: Ints) -> Floats:
    """For each of `some` targets, the sums that `_tau` needs over its pairs with `members`: `[some, 3]`."""
    signs = [_signs(guess[some], guess[members]) for guess in guesses]
    sign_truth = _signs(truth[some], truth[members])
    pairs = [np.mean([s * sign_truth for s in signs], axis=0), np.mean([s**2 for s in signs], axis=0), sign_truth**2]
    return np.column_stack([values.sum(1) for values in pairs])


def _signs(some: Floats, others: Floats) -> Floats:
    """The sign of each pair's difference. It is rounded, so that a rounding error does not break a tie."""
    return np.asarray(np.sign(np.round(some[:, None] - others, 9)))


def star_metrics(seeds: list[pl.DataFrame]) -> dict[str, Estimate]:
    """All metrics of a model's star probabilities, averaged over seeds per target.

    Args:
        seeds: one table per seed with `user_id`, `item_id`, `rating`, `history_mean`, `stars`, of the same targets.
    """
    tables = [table.drop_nulls(["rating", "stars"]).sort("interaction_id") for table in seeds]
    rows = tables[0]
    if not rows.height:
        return {}
    stars = [star_array(table) for table in tables]
    truth = rows["rating"].to_numpy().astype(int)
    users, items = codes(rows["user_id"]), codes(rows["item_id"])
    metrics = point_metrics(rows, [expected_star(p) for p in stars])

    def mean(features: Callable[[Floats], Floats]) -> Floats:
        values = np.mean([features(p) for p in stars], axis=0)
        return values if values.ndim == 2 else np.column_stack([values, np.ones(len(truth))])

    return metrics | {
        "mae_median": estimate(mean(lambda p: np.abs(median_star(p) - truth)), users, items),
        "qwk_likeliest": estimate(mean(lambda p: agreement(p.argmax(1) + 1, truth)), users, items, quadratic_kappa),
        "rps": estimate(mean(lambda p: ranked_probability_score(p, truth)), users, items),
        "ece": estimate(mean(lambda p: calibration(p, truth)), users, items, calibration_error),
        "leaked": estimate(mean(lambda p: 1 - p.sum(1)), users, items),
    }


def point_metrics(rows: pl.DataFrame, guesses: list[Floats]) -> dict[str, Estimate]:
    """Metrics of guessed ratings from any source, averaged over seeds per target; kappa (`qwk`) of stars alone.

    Args:
        rows: with `user_id`, `item_id`, `rating`, `history_mean`; no rating is null.
        guesses: one array `[rows]` per seed.
    """
    if not rows.height:
        return {}
    truth = rows["rating"].cast(pl.Float64).to_numpy()
    users, items = codes(rows["user_id"]), codes(rows["item_id"])
    squared = np.mean([squared_error(guess, truth) for guess in guesses], axis=0)
    absolute = np.mean([np.abs(guess - truth) for guess in guesses], axis=0)
    metrics = {
        "rmse": estimate(squared, users, items, root_mean),
        "mae": estimate(np.column_stack([absolute, np.ones(len(truth))]), users, items),
    }
    if why_no_stars(rows["rating"]) is None:
        tables = [agreement(guess.round().clip(1, N_STARS).astype(int), truth.astype(int)) for guess in guesses]
        metrics["qwk"] = estimate(np.mean(tables, axis=0), users, items, quadratic_kappa)
    known = rows["history_mean"].is_not_null().to_numpy()
    if known.sum() > 1:
        subset = rows.filter(pl.Series(known))
        metrics["tau"] = within_item_tau(
            np.array([guess[known] for guess in guesses]),
            truth[known],
            subset["history_mean"].to_numpy(),
            codes(subset["item_id"]),
            codes(subset["user_id"]),
        )
    return metrics
