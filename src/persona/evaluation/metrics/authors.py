"""What the likelihoods of the right and of the wrong users say. All values are per target, ready to be summed."""

from __future__ import annotations

from math import comb

import numpy as np
import polars as pl

from persona.evaluation.metrics.bootstrap import Floats


def add_swap_gaps(scores: pl.DataFrame) -> pl.DataFrame:
    """Add to the scored test targets what a prompt is worth, in nats a target:

    - `swap_gap` (identity): mean NLL under the impostors' prompts less that under the own prompt. Above 0, the
      model takes from the prompt what is this user's own.
    - `format_gap`: NLL under the prompt that tells nothing of a user less the mean under the impostors'. What
      any user's prompt does: form, film, how reviewers write.

    Their sum is what the own prompt is worth against none. Targets without an impostor have null.
    """
    swapped = pl.col("nll_impostors").list.mean()
    return scores.with_columns(swap_gap=swapped - pl.col("nll"), format_gap=pl.col("nll_empty") - swapped)


def author_ranks(scores: pl.DataFrame, candidates: int) -> pl.DataFrame:
    """How well the review's likelihood under each user's prompt tells its author, among `candidates` users.

    The author and `candidates - 1` drawn from the impostors: the expectation over all such draws, which is
    hypergeometric, and over the order of ties. By chance acc@1 is 1/k and the mean reciprocal rank H_k / k
    (k = 10: 0.1 and 0.293).

    Double-centred: each prompt's mean over the reviews of the block and each review's mean over the prompts are
    taken off first, so that a prompt under which any review is likely has no advantage.

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
    """acc@1 and reciprocal rank of `own`, in expectation over `candidates - 1` drawn of `others`; ties count half-way.

    With b of the m others better, the number better among n drawn is hypergeometric: C(b, j) C(m - b, n - j) /
    C(m, n), and the rank is j + 1. Ties are averaged over their orders.
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
    """For every target the centred likelihood under its own prompt and under its impostors', in their order."""
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
        block = np.array([[likelihood[review, prompt] for prompt in members] for review in members])
        block = block - block.mean(0, keepdims=True) - block.mean(1, keepdims=True) + block.mean()
        place = {member: n for n, member in enumerate(members)}
        for member in members:
            others = [place[other] for other in rows[member]["impostor_ids"]]
            result[member] = (float(block[place[member], place[member]]), block[place[member], others])
    return result


def pooled_ranks(scores: pl.DataFrame, candidates: int) -> pl.DataFrame:
    """Author identification from all reviews of a user together, for users with at least two.

    A user's reviews have different impostors. The j-th stand-in is made of the j-th impostor of each review (in
    the order of their ids); the author's summed likelihood is ranked among `candidates - 1` of them. Likelihoods
    are double-centred first: what makes any review likely under a user's prompts would add up over the user's
    own reviews, and not over a stand-in's, which are of different users.

    Returns:
        `user_id`, `acc`, `mrr`.
    """
    rows = []
    enough = scores.filter(pl.col("impostor_ids").list.len() >= candidates - 1)
    centred = double_centred(enough)
    for (user,), reviews in enough.group_by(["user_id"], maintain_order=True):
        if reviews.height < 2:
            continue
        mine = [centred[target] for target in reviews["interaction_id"]]
        others = np.array([values[: candidates - 1] for _, values in mine])
        rows.append((user, *expected_ranks(sum(own for own, _ in mine), others.sum(0), candidates)))
    return pl.DataFrame(rows, schema={"user_id": pl.String, "acc": pl.Float64, "mrr": pl.Float64}, orient="row")
