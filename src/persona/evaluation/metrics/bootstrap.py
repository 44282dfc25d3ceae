"""Bootstrap intervals. They allow for the similarity of texts of the same user, and of texts on the same item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from math import factorial

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
# From sums over targets `[..., features]` to the value of a metric `[...]`.
Statistic = Callable[[Floats], Floats]

RESAMPLES = 10_000
CHUNK = 500
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and the two-sided p-value of the hypothesis that it is 0."""

    value: float
    low: float
    high: float
    p: float

    def as_json(self) -> dict[str, float | None]:
        """The fields as JSON. JSON has no NaN, so values that could not be computed are null."""
        return {name: number if np.isfinite(number) else None for name, number in asdict(self).items()}


def ratio(sums: Floats) -> Floats:
    """Sum of the first feature over that of the second."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def codes(names: pl.Series) -> Ints:
    """Number the distinct names from 0 in alphabetical order: `[names]`."""
    return np.asarray(names.rank("dense").cast(pl.Int64).to_numpy() - 1)


def estimate(
    features: Floats, users: Ints, statistic: Statistic = ratio, items: Ints | None = None, n: int = RESAMPLES
) -> Estimate:
    """A metric of sums over targets with its percentile bootstrap interval.

    Users are drawn with replacement, each with all of their targets. With `items`, items are drawn as well, and the
    weight of a target is (times its user was drawn) x (times its item was drawn): the pigeonhole bootstrap (Owen,
    Annals of Applied Statistics 2007), whose intervals are rather too wide than too narrow. The same users give the
    same resamples, so a metric of differences between two models on the same targets is a paired comparison.

    Args:
        features: `[targets, features]`, the values that are summed.
        users, items: `[targets]`, the user and the item of each target, numbered from 0.
        statistic: from the sums `[..., features]` to the metric `[...]`.
        n: number of resamples.
    """
    if not len(features):
        return Estimate(np.nan, np.nan, np.nan, np.nan)
    value = float(statistic(features.sum(0)))
    resampled = np.concatenate([statistic(sums) for sums in _resampled_sums(features, users, items, n)])
    resampled = resampled[np.isfinite(resampled)]
    if not resampled.size:
        return Estimate(value, np.nan, np.nan, np.nan)
    low, high = interval(resampled)
    # The estimate itself is counted, so p is never 0 (Davison and Hinkley 1997, section 4.2).
    tails = [(np.sum(resampled <= 0) + 1), (np.sum(resampled >= 0) + 1)]
    return Estimate(value, low, high, float(min(1.0, 2 * min(tails) / (resampled.size + 1))))


def estimate_columns(rows: pl.DataFrame, value: str, by: str, items: bool) -> Estimate:
    """The sum of column `value` divided by the sum of column `by`, with its interval over users.

    Args:
        rows: with `user_id`, `item_id` and the two columns.
        items: whether to resample items as well.
    """
    features = rows.select(value, pl.col(by).cast(pl.Float64)).to_numpy()
    return estimate(features, codes(rows["user_id"]), items=codes(rows["item_id"]) if items else None)


def interval(resampled: Floats) -> tuple[float, float]:
    """The middle 95 % of resampled values; NaN if there are none."""
    if not resampled.size:
        return np.nan, np.nan
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def _resampled_sums(features: Floats, users: Ints, items: Ints | None, n: int) -> list[Floats]:
    rng = np.random.default_rng(SEED)
    n_users = int(users.max()) + 1
    by_user = np.zeros((n_users, features.shape[1]))
    np.add.at(by_user, users, features)
    sums = []
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        user_counts = draw(rng, n_users, size)
        if items is None:
            sums.append(user_counts @ by_user)
        else:
            item_counts = draw(rng, int(items.max()) + 1, size)
            sums.append((user_counts[:, users] * item_counts[:, items]) @ features)
    return sums


def draw(rng: np.random.Generator, n: int, size: int) -> Floats:
    """How often each of `n` units was drawn in each of `size` resamples: `[size, n]`."""
    drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for multiple comparisons (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.zeros(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return [float(p) for p in adjusted]


def shapley_weights(parts: list[str]) -> dict[str, dict[frozenset[str], float]]:
    """The weight that the value of each combination of parts has in the Shapley value of each part.

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! x (v(S + i) - v(S)) (Shapley 1953). It is linear in
    the values v, so it can be computed per target and resampled like any sum.
    """
    weights: dict[str, dict[frozenset[str], float]] = {}
    n = len(parts)
    for part in parts:
        others = [other for other in parts if other != part]
        weights[part] = {}
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for chosen in combinations(others, size):
                weights[part][frozenset(chosen) | {part}] = weight
                weights[part][frozenset(chosen)] = -weight
    return weights
