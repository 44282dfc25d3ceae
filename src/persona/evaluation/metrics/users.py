"""How an effect is spread over users: each user's own, and the shares of users that it helps and harms."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from scipy import stats

EFFECTS = pl.Schema({"user_id": pl.String, "effect": pl.Float64, "se": pl.Float64, "n": pl.Int64})


def user_effects(rows: pl.DataFrame, value: str, by: str) -> pl.DataFrame:
    """The effect of each user: the sum of column `value` divided by the sum of column `by` over their targets.

    The variance of a target's `value / by` is taken to be s^2 / by, with one s^2 for all users, the mean square within
    users of a weighted one-way analysis of variance. So se = s / sqrt(sum of by).

    Args:
        rows: one per target, with `user_id` and the two columns; targets without `value` are left out.

    Returns:
        `user_id`, `effect`, `se`, `n` (targets), by `user_id`. `se` is null if no user has two targets.
    """
    known = rows.drop_nulls(value).with_columns(pl.col(value, by).cast(pl.Float64))
    totals = known.group_by("user_id").agg(
        effect=pl.col(value).sum() / pl.col(by).sum(), weight=pl.col(by).sum(), n=pl.len().cast(pl.Int64)
    )
    squares = (pl.col(value) / pl.col(by) - pl.col("effect")) ** 2 * pl.col(by)
    repeated = known.height - totals.height
    within = float(known.join(totals, on="user_id").select(squares.sum()).item()) / repeated if repeated else None
    effects = totals.with_columns(se=(pl.lit(within, pl.Float64) / pl.col("weight")).sqrt())
    return effects.select(*EFFECTS).cast(EFFECTS).sort("user_id")


def user_shares(effects: pl.DataFrame) -> dict[str, Any]:
    """Shares of users whose effect is above 0 (helped) and below 0 (harmed).

    - `helped`, `harmed`: observed, with the 95 % interval of the first (Wilson, J. American Statistical Association
      1927). Noise draws both towards a half, because the signs of small effects are chance.
    - `helped_corrected`: the share above 0 of N(mean, tau^2), where tau^2 (`between_sd` squared) is the variance of the
      effects minus the mean of their squared standard errors, at least 0 (Efron and Morris, J. American Statistical
      Association 1975; that true effects are normal is an assumption). `_low` and `_high` are its smallest and largest
      value within the 95 % intervals of the mean and of tau^2 (both normal). They are far apart where noise is much
      larger than tau. With tau = 0 the data do not show that users differ, and the share is 0 or 1.

    Args:
        effects: from `user_effects`; above 0 is better.
    """
    x, n = effects["effect"].to_numpy(), effects.height
    if not n:
        return {"users": 0}
    low, high = wilson(int((x > 0).sum()), n)
    shares = {"users": n, "helped": float((x > 0).mean()), "helped_low": low, "helped_high": high}
    return shares | {"harmed": float((x < 0).mean())} | _corrected(effects)


def _corrected(effects: pl.DataFrame) -> dict[str, float | None]:
    """The part of `user_shares` without noise; null where noise cannot be told from users."""
    names = ["between_sd", "helped_corrected", "helped_corrected_low", "helped_corrected_high"]
    if effects.height < 2 or effects["se"].null_count():
        return dict.fromkeys(names)
    x, repeated = effects["effect"].to_numpy(), int((effects["n"] - 1).sum())
    noise, total = float(np.mean(effects["se"].to_numpy() ** 2)), float(x.var(ddof=1))
    # The middle and both ends of the intervals. A variance s^2 with df degrees of freedom has the variance 2 s^4 / df.
    spread = np.sqrt(2 * total**2 / (len(x) - 1) + 2 * noise**2 / repeated)
    ends = np.array([0, -1.96, 1.96])
    means = x.mean() + ends * np.sqrt(total / len(x))
    sds = np.sqrt(np.maximum(0.0, total - noise + ends * spread))
    shares = [_share_above_zero(float(mean), float(sd)) for mean in means for sd in sds]
    return dict(zip(names, [float(sds[0]), shares[0], min(shares), max(shares)], strict=True))


def _share_above_zero(mean: float, sd: float) -> float:
    return float(stats.norm.cdf(mean / sd)) if sd else float(mean > 0)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of independent cases (Wilson 1927)."""
    found = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
