"""Swap gap and author identification from the likelihoods under the right and the wrong users' prompts.

All values are per target, to be summed or averaged by `intervals.estimate`.
"""

from __future__ import annotations

from math import comb

import numpy as np
import polars as pl

from persona.evaluation.metrics.intervals import Floats


def add_swap_gaps(scores: pl.DataFrame) -> pl.DataFrame:
    """Add the columns `swap_gap` and `format_gap` to scored test targets, in nats per target.

    - `swap_gap` (identity): mean NLL with the impostors as the prompt's user minus NLL under the own prompt. Item and
      conversation stay the target's. Above 0, the model uses information that is specific to this user.
    - `format_gap`: NLL under a prompt without user information minus the mean NLL under the impostors' prompts: what
      any user's prompt contributes, such as form, item and the way reviewers write.

    Their sum is the value of the user's own prompt against a prompt without user information. Both are null for
    targets without impostors.
    """
    swapped = pl.col("nll_impostors").list.mean()
    return scores.with_columns(swap_gap=swapped - pl.col("nll"), format_gap=pl.col("nll_empty") - swapped)


def author_ranks(scores: pl.DataFrame, candidates: int) -> pl.DataFrame:
    """Identify the author of each review among `candidates` users, by its likelihood under each user's prompt.

    The candidates are the author and `candidates - 1` users drawn from the impostors. The values are expectations
    over all such draws, which are hypergeometric, and over the order of ties. By chance acc@1 is 1/k and the mean
    reciprocal rank is H_k / k (k = 10: 0.1 and 0.293).

    The `_centred` values are double-centred: each prompt's mean over the reviews of the block and each review's mean
    over the prompts are subtracted first, so a prompt that makes any review likely has no advantage.

    Returns:
        `interaction_id`, `acc`, `mrr`, `acc_centred`, `mrr_centred`, for targets with enough impostors.
    """
    enough = scores.filter(pl.col("impostor_ids").list.len() >= candidates - 1)
    centred = double_centred(enough)
    rows = []
    for target, own, others in enough.select("interaction_id", "nll", "nll_impostors").iter_rows():
        raw = expected_ranks(-own, -np.array(others), candidates)
        rows.append((target, *raw, *expected_ranks(*centred[target], candidates)))
    names = ["acc", "mrr", "acc_centred", "mrr_centred"]
    schema = {"interaction_id": pl.Int64} | dict.fromkeys(names, pl.Float64)
    return pl.DataFrame(rows, schema=schema, orient="row")


def expected_ranks(own: float, others: Floats, candidates: int) -> tuple[float, float]:
    """Expected acc@1 and reciprocal rank of `own` among itself and `candidates - 1` values drawn from `others`.

    If b of the m others are better, the number j of better ones among n drawn is hypergeometric:
    C(b, j) C(m - b, n - j) / C(m, n). The rank is j + 1. Ties are averaged over their orders.
    """
    better, tied, n = int((others > own).sum()), int((others == own).sum()), candidates - 1
    acc, mrr = [], []
    for extra in range(tied + 1):
        ranks = [(1 + j, _hypergeometric(j, better + extra, len(others), n)) for j in range(n + 1)]
        acc.append(ranks[0][1])
        mrr.append(sum(p / rank for rank, p in ranks))
    return float(np.mean(acc)), float(np.mean(mrr))


def _hypergeometric(j: int, marked: int, total: int, drawn: int) -> float:
    return comb(marked, j) * comb(total - marked, drawn - j) / comb(total, drawn)


def double_centred(scores: pl.DataFrame) -> dict[int, tuple[float, Floats]]:
    """For each target, the centred likelihood under its own prompt and under its impostors' prompts, in their order.

    `scores` may lack reviews of a block; means over reviews are then over those that it has.
    """
    rows = {row["interaction_id"]: row for row in scores.iter_rows(named=True)}
    likelihood = {
        (target, prompt): -nll
        for target, row in rows.items()
        for prompt, nll in zip([target, *row["impostor_ids"]], [row["nll"], *row["nll_impostors"]], strict=True)
    }
    result: dict[int, tuple[float, Floats]] = {}
    for target, row in rows.items():
        if target in result:
            continue
        members = [target, *row["impostor_ids"]]
        reviews = [member for member in members if member in rows]
        block = np.array([[likelihood[review, prompt] for prompt in members] for review in reviews])
        block = block - block.mean(0, keepdims=True) - block.mean(1, keepdims=True) + block.mean()
        index = {member: n for n, member in enumerate(members)}
        for review, centred in zip(reviews, block, strict=True):
            others = [index[other] for other in rows[review]["impostor_ids"]]
            result[review] = (float(centred[index[review]]), centred[others])
    return result


def pooled_ranks(scores: pl.DataFrame, candidates: int) -> pl.DataFrame:
    """Author identification from all reviews of a user together, for users with at least two reviews.

    The reviews of a user have different impostors. So the j-th rival is made up of the j-th impostor of each review,
    in the order of their ids, and the author's summed likelihood is ranked among `candidates - 1` rivals.
    Likelihoods are double-centred first: a prompt effect that makes any review likely would otherwise add up over
    the author's own prompts, but not over a rival's prompts, which come from different users.

    Returns:
        `user_id`, `acc`, `mrr`.
    """
    rows = []
    enough = scores.filter(pl.col("impostor_ids").list.len() >= candidates - 1)
    centred = double_centred(enough)
    for (user,), reviews in enough.group_by(["user_id"], maintain_order=True):
        if reviews.height < 2:
            continue
        own_reviews = [centred[target] for target in reviews["interaction_id"]]
        others = np.array([values[: candidates - 1] for _, values in own_reviews])
        rows.append((user, *expected_ranks(sum(own for own, _ in own_reviews), others.sum(0), candidates)))
    return pl.DataFrame(rows, schema={"user_id": pl.String, "acc": pl.Float64, "mrr": pl.Float64}, orient="row")
