"""Intervals that allow for the similarity of texts of the same user, and of texts on the same item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import ceil, factorial

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
# From sums over targets `[..., features]` to the value of a metric `[...]`.
Statistic = Callable[[Floats], Floats]

# With 3 items an interval that covers 95 % is twice as wide as the estimate varies, and its width is mostly chance: it
# rests on two degrees of freedom. With 5 it is 1.1 to 1.4 times as wide, with 10 or more 1.0 to 1.16 times
# (`python -m benchmarks.evaluation --coverage`).
MIN_CLUSTERS = 5
MIN_EFFECTIVE = 4.0  # as many, if they hold unequal shares of the targets
STEP = 1e-5  # of the numerical derivative, relative to the sum
POWER = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))  # 1.96 + 0.84


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and the two-sided p-value of the hypothesis that it is 0.

    Args:
        note: why there is no interval; None if there is one. Then `low`, `high` and `p` are NaN.
        se: standard error that the interval is made of, with `df` degrees of freedom (Student's t).
        users_se: the standard error if only users differed, which more users make smaller.
        users, items: how many users and items the targets have.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    note: str | None = None
    se: float = np.nan
    df: float = np.nan
    users_se: float = np.nan
    users: int = 0
    items: int = 0

    def as_json(self) -> dict[str, float | str | None]:
        """The fields as JSON. JSON has no NaN, so values that could not be computed are null."""
        fields = asdict(self)
        return {name: None if isinstance(x, float) and not np.isfinite(x) else x for name, x in fields.items()}

    def bounds(self, level: float) -> tuple[float, float]:
        """The interval of a level such as 0.95; NaN if there is none."""
        half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.se
        return self.value - half, self.value + half

    def with_error(self, se: float, df: float) -> Estimate:
        """The same value with an interval from another standard error."""
        new = replace(self, se=se, df=df)
        low, high = new.bounds(0.95)
        return replace(new, low=low, high=high, p=_p_value(self.value, se, df))


def _p_value(value: float, se: float, df: float) -> float:
    if se == 0:
        return float(value == 0)
    return float(2 * stats.t.sf(abs(value) / se, df))


def ratio(sums: Floats) -> Floats:
    """Sum of the first feature over that of the second."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def codes(names: pl.Series) -> Ints:
    """Number the distinct names from 0 in alphabetical order: `[names]`."""
    return np.asarray(names.rank("dense").cast(pl.Int64).to_numpy() - 1)


def estimate(features: Floats, users: Ints, items: Ints, statistic: Statistic = ratio) -> Estimate:
    """A metric of sums over targets with its interval; see `from_influence`.

    Args:
        features: `[targets, features]`, the values that are summed.
        users, items: `[targets]`, the user and the item of each target, numbered from 0.
        statistic: from the sums `[..., features]` to the metric `[...]`. It does not change if all sums are
            multiplied by the same number.
    """
    if not len(features):
        return Estimate(np.nan, note="no interval: no targets")
    value = float(statistic(features.sum(0)))
    return from_influence(value, features @ gradient(features.sum(0), statistic), users, items)


def estimate_columns(rows: pl.DataFrame, value: str, by: str) -> Estimate:
    """The sum of column `value` divided by the sum of column `by`, with its interval.

    Args:
        rows: with `user_id`, `item_id` and the two columns.
    """
    features = rows.select(pl.col(value, by).cast(pl.Float64)).to_numpy()
    return estimate(features, codes(rows["user_id"]), codes(rows["item_id"]))


def gradient(sums: Floats, statistic: Statistic) -> Floats:
    """The derivative of the statistic by each sum `[features]`, from central differences.

    It is 0 where there is none: at the edge of what a statistic allows, such as a mean square of 0.
    """
    step = STEP * np.where(sums == 0, np.abs(sums).max(), np.abs(sums))
    step = np.where(step == 0, STEP, step)
    with np.errstate(invalid="ignore", divide="ignore"):
        change = statistic(sums + np.diag(step)) - statistic(sums - np.diag(step))
    return np.nan_to_num(change / (2 * step), posinf=0.0, neginf=0.0)


def from_influence(
    value: float, influence: Floats, users: Ints, items: Ints, item_influence: Floats | None = None
) -> Estimate:
    """A value with its interval, from how much each target contributes to its error.

    The variance is that between users plus that between items minus that between their combinations (Cameron,
    Gelbach and Miller, J. Business & Economic Statistics 2011), at least the smaller of the first two. The sum of a
    cluster that holds the share h of the targets is divided by sqrt(1 - h), because the value was fitted to it (as
    CR2 of Bell and McCaffrey, Survey Methodology 2002). The interval uses Student's t with one degree of freedom
    less than the smaller number of clusters; clusters of unequal size count as 1 / sum(h^2).

    Clusters within larger ones do not matter: if each user belongs to one item, such as the characters of a film,
    the variance is that between items; if each item belongs to one user, that between users. A single item is the
    subject, so its interval is for that item.

    Args:
        influence: `[targets]`, the derivative of the value by the weight of each target; they sum to 0.
        users, items: `[targets]`, numbered from 0.
        item_influence: `[targets]`, whose sum over an item is the derivative by the item's weight, if that of the
            targets' weights is another: where pairs are summed, a pair has two targets but one item.

    Returns:
        Without an interval, but with a note, if there are fewer than `MIN_CLUSTERS` users or items.
    """
    levels = {"users": users, "items": items}
    counts = {name: len(np.unique(ids)) for name, ids in levels.items()}
    plain = Estimate(value, users=counts["users"], items=counts["items"])
    used = _crossed(levels, counts)
    reasons = [reason for name, ids in used.items() if (reason := _too_few(name, ids))]
    if not np.isfinite(value):
        reasons = ["the value cannot be computed"]
    if reasons:
        return replace(plain, note=f"no interval: {reasons[0]}")
    by = {"users": influence, "items": influence if item_influence is None else item_influence}
    variances = [_variance(by[name], ids) for name, ids in used.items()]
    variance = variances[0]
    if len(variances) == 2:
        variance = max(sum(variances) - _variance(influence, _combined(users, items)), min(variances))
    df = min(effective_number(ids) for ids in used.values()) - 1
    users_se = np.sqrt(_variance(influence, users))
    return replace(plain, users_se=float(users_se)).with_error(float(np.sqrt(variance)), df)


def _crossed(levels: dict[str, Ints], counts: dict[str, int]) -> dict[str, Ints]:
    """The levels that an interval needs: not those within another one, and not a single item."""
    combinations = len(np.unique(_combined(levels["users"], levels["items"])))
    if counts["items"] == 1 or combinations == counts["items"]:
        return {"users": levels["users"]}
    return {"items": levels["items"]} if combinations == counts["users"] else levels


def _combined(users: Ints, items: Ints) -> Ints:
    return np.asarray(users * (items.max() + 1) + items)


def _variance(influence: Floats, ids: Ints) -> float:
    return float(_covariance(influence[:, None], ids)[0, 0])


def _covariance(influence: Floats, ids: Ints) -> Floats:
    """That of the sums `[targets, values]` between clusters: `[values, values]`."""
    clusters = np.unique(ids, return_inverse=True)[1]
    share = np.bincount(clusters) / len(ids)
    sums = np.column_stack([np.bincount(clusters, column) for column in influence.T])
    scaled = sums / np.sqrt(np.maximum(1 - share, 1 / len(ids)))[:, None]
    return np.asarray(scaled.T @ scaled)


def joint_draws(features: Floats, users: Ints, items: Ints, n: int) -> Floats | None:
    """Several ratios of the same targets, drawn with their common uncertainty, for what is computed from all of them.

    A multivariate t with the variances and the degrees of freedom of `from_influence`. The middle 95 % of the draws of
    one ratio are nearly its interval.

    Args:
        features: `[targets, ratios + 1]`, the numerators and their common denominator.
        n: number of draws.

    Returns:
        `[n, ratios]`; None where there is no interval.
    """
    if not len(features):
        return None
    total = features.sum(0)
    values = total[:-1] / total[-1]
    influence = (features[:, :-1] - features[:, -1:] * values) / total[-1]
    each = [from_influence(float(value), part, users, items) for value, part in zip(values, influence.T, strict=True)]
    one = each[0]
    if one.note:
        return None
    levels = {"users": users, "items": items}
    used = _crossed(levels, {"users": one.users, "items": one.items})
    covariance = sum((_covariance(influence, ids) for ids in used.values()), np.zeros((len(values),) * 2))
    if len(used) == 2:
        covariance = covariance - _covariance(influence, _combined(users, items))
    # A variance has a least size, which its row and column of the covariance follow.
    own = np.sqrt(np.maximum(np.diag(covariance), 0))
    scale = np.divide([found.se for found in each], own, out=np.ones(len(own)), where=own > 0)
    sizes, directions = np.linalg.eigh(covariance * np.outer(scale, scale))
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(n, len(values))) @ (directions * np.sqrt(np.maximum(sizes, 0))).T
    return np.asarray(values + normal / np.sqrt(rng.chisquare(one.df, (n, 1)) / one.df))


def effective_number(ids: Ints) -> float:
    """Number of equal clusters that are as uneven as these: 1 / sum of squared shares."""
    share = np.unique(ids, return_counts=True)[1] / len(ids)
    return float(1 / np.sum(share**2))


def _too_few(name: str, ids: Ints) -> str | None:
    number = len(np.unique(ids))
    if number < MIN_CLUSTERS:
        return f"only {number} {name if number != 1 else name[:-1]}"
    return f"most targets are of few of the {number} {name}" if effective_number(ids) < MIN_EFFECTIVE else None


def add_spread(found: Estimate, variance: float, df: float) -> Estimate:
    """Add an independent source of variance, known with `df` degrees of freedom.

    Degrees of freedom of the sum as by Satterthwaite (Biometrics Bulletin 1946).
    """
    total = found.se**2 + variance
    if not total > 0:
        return found
    return found.with_error(float(np.sqrt(total)), total**2 / (found.se**4 / found.df + variance**2 / df))


def users_needed(found: Estimate) -> int | None:
    """Users with whom a gap as large as the estimate is found with 80 % power at two-sided 5 %.

    Only the variance between users falls with their number; that of the items (and seeds) stays. So the number n
    solves value^2 = (1.96 + 0.84)^2 (users_se^2 x users / n + rest).

    Returns:
        None if there is no interval, or if no number of users is enough with these items and seeds.
    """
    if not np.isfinite(found.se):
        return None
    rest = max(0.0, found.se**2 - found.users_se**2)
    allowed = found.value**2 / POWER**2 - rest
    return max(2, ceil(found.users * found.users_se**2 / allowed)) if allowed > 0 else None


def detectable_gap(sd: float, users: int) -> float:
    """The smallest gap that is found with 80 % power at two-sided 5 %: (1.96 + 0.84) sd / sqrt(users).

    Args:
        sd: standard deviation of the users' effects.
    """
    return float(POWER * sd / np.sqrt(users))


def equivalent(found: Estimate, margin: float | None) -> bool | None:
    """Whether the value lies within +-margin: two one-sided tests at 5 % (Schuirmann, J. Pharmacokinetics 1987).

    The tests agree if the 90 % interval lies within the margin. None without a margin or an interval.
    """
    if margin is None or not np.isfinite(found.se):
        return None
    low, high = found.bounds(0.90)
    return -margin < low and high < margin


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
    the values v, so it can be computed per target and summed like any value.
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
