"""How well stars are foretold: as probabilities, as an expected star, as an order among the users of a film."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from scipy import sparse

from persona.evaluation.metrics.bootstrap import SEED, Estimate, Floats, Ints, codes, draw, estimate, interval

N_STARS = 5
BINS = 10
TAU_RESAMPLES = 1000

_SQUARES = (np.arange(N_STARS)[:, None] - np.arange(N_STARS)) ** 2 / (N_STARS - 1) ** 2


def star_array(scores: pl.DataFrame) -> Floats:
    """The column `stars` as `[N, 5]`."""
    return np.array(scores["stars"].to_list(), dtype=float).reshape(-1, N_STARS)


def normalised(stars: Floats) -> Floats:
    """Probabilities `[N, 5]` made to add up to 1."""
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
    """The smallest star that at least half of the normalised probability does not exceed: it minimises the MAE."""
    # A hair less than half, so that rounding does not decide.
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

    0 is perfect, 1 is certainty at the wrong end.
    """
    cumulative = normalised(stars).cumsum(1)[:, :-1]
    happened = truth[:, None] <= np.arange(1, N_STARS)
    return np.asarray(((cumulative - happened) ** 2).mean(1))


def calibration(stars: Floats, truth: Ints) -> Floats:
    """Features for `calibration_error`: for each star and tenth of probability, its sum and how often it was so."""
    p = normalised(stars)
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    features = np.zeros((len(truth), 2, N_STARS, BINS))
    rows, classes = np.arange(len(truth))[:, None], np.arange(N_STARS)[None]
    features[rows, 0, classes, place] = p
    features[rows, 1, classes, place] = classes + 1 == truth[:, None]
    return features.reshape(len(truth), -1)


def calibration_error(sums: Floats) -> Floats:
    """Class-wise expected calibration error: mean over stars of sum over bins |sum p - hits| / N (Kull et al. 2019)."""
    both = sums.reshape(*sums.shape[:-1], 2, N_STARS, BINS)
    # The probabilities of a target add up to 1, so their sum over all is the number of targets.
    n = both[..., 0, :, :].sum((-1, -2))
    return np.asarray(np.abs(both[..., 0, :, :] - both[..., 1, :, :]).sum((-1, -2)) / N_STARS / n)


def within_film_tau(guesses: Floats, truth: Floats, user_mean: Floats, films: Ints, users: Ints) -> Estimate:
    """Kendall's tau-b of (star - the user's mean) between guess and truth, over pairs of reviews of one film.

    tau-b = (concordant - discordant) / sqrt(pairs untied in guess x pairs untied in truth) (Kendall, Biometrika
    1945), pairs pooled over films. Says whether the model knows who likes a film more than that user likes films.
    The mean is taken off both, so that even one guess for all has a tau above 0: that of the global mean is the
    zero to compare with. `guesses` is `[seeds, targets]`; a pair counts with its mean over the seeds.
    """
    pairs = _film_pairs(films)
    sign_truth = _signs(truth - user_mean, pairs)
    signs = np.array([_signs(guess - user_mean, pairs) for guess in guesses])
    features = [(signs * sign_truth).mean(0), (signs**2).mean(0), sign_truth**2]
    matrices = [sparse.csr_matrix((f, pairs), shape=(len(films), len(films))) for f in features]
    rng = np.random.default_rng(SEED)
    weights = np.concatenate([np.ones((1, len(films))), draw(rng, int(users.max()) + 1, TAU_RESAMPLES)[:, users]])
    sums = [np.asarray((matrix.T @ weights.T).T * weights).sum(1) for matrix in matrices]
    with np.errstate(invalid="ignore", divide="ignore"):
        tau = sums[0] / np.sqrt(sums[1] * sums[2])
    return Estimate(float(tau[0]), *interval(tau[1:][np.isfinite(tau[1:])]), np.nan)


def _signs(values: Floats, pairs: tuple[Ints, Ints]) -> Floats:
    """Which of each pair is greater; rounded, so that what is equal by arithmetic ties."""
    return np.asarray(np.sign(np.round(values[pairs[0]] - values[pairs[1]], 9)))


def _film_pairs(films: Ints) -> tuple[Ints, Ints]:
    """All pairs of targets of one film, each once."""
    first, second = [], []
    for film in np.unique(films):
        members = np.flatnonzero(films == film)
        i, j = np.triu_indices(len(members), 1)
        first.append(members[i])
        second.append(members[j])
    return np.concatenate(first), np.concatenate(second)


def star_metrics(seeds: list[pl.DataFrame]) -> dict[str, Estimate]:
    """All metrics of a model's star probabilities; of several seeds each target's values are averaged.

    Args:
        seeds: a table each with `user_id`, `item_id`, `rating`, `history_mean`, `stars`, of the same targets.
    """
    tables = [table.drop_nulls(["rating", "stars"]).sort("interaction_id") for table in seeds]
    rows = tables[0]
    if not rows.height:
        return {}
    stars = [star_array(table) for table in tables]
    truth, users = rows["rating"].to_numpy().round().astype(int), codes(rows["user_id"])
    found = point_metrics(rows, [expected_star(p) for p in stars])

    def mean(features: Callable[[Floats], Floats]) -> Floats:
        values = np.mean([features(p) for p in stars], axis=0)
        return values if values.ndim == 2 else np.column_stack([values, np.ones(len(truth))])

    return found | {
        "mae_median": estimate(mean(lambda p: np.abs(median_star(p) - truth)), users),
        "qwk_likeliest": estimate(mean(lambda p: agreement(p.argmax(1) + 1, truth)), users, quadratic_kappa),
        "rps": estimate(mean(lambda p: ranked_probability_score(p, truth)), users),
        "ece": estimate(mean(lambda p: calibration(p, truth)), users, calibration_error),
        "leaked": estimate(mean(lambda p: 1 - p.sum(1)), users),
    }


def point_metrics(rows: pl.DataFrame, guesses: list[Floats]) -> dict[str, Estimate]:
    """Metrics of guessed stars, whatever they come from; of several seeds each target's values are averaged.

    Args:
        rows: with `user_id`, `item_id`, `rating`, `history_mean`; ratings are known.
        guesses: of the rows, an array a seed.
    """
    if not rows.height:
        return {}
    truth, users = rows["rating"].cast(pl.Float64).to_numpy(), codes(rows["user_id"])
    whole = truth.round().astype(int)
    squared = np.mean([squared_error(guess, truth) for guess in guesses], axis=0)
    absolute = np.mean([np.abs(guess - truth) for guess in guesses], axis=0)
    tables = [agreement(guess.round().clip(1, N_STARS).astype(int), whole) for guess in guesses]
    found = {
        "rmse": estimate(squared, users, root_mean),
        "mae": estimate(np.column_stack([absolute, np.ones(len(truth))]), users),
        "qwk": estimate(np.mean(tables, axis=0), users, quadratic_kappa),
    }
    known = rows["history_mean"].is_not_null().to_numpy()
    if known.sum() > 1:
        some = rows.filter(pl.Series(known))
        found["tau"] = within_film_tau(
            np.array([guess[known] for guess in guesses]),
            truth[known],
            some["history_mean"].to_numpy(),
            codes(some["item_id"]),
            codes(some["user_id"]),
        )
    return found
