"""How often the evaluation's intervals contain the truth, on simulated data, and how wide they are.

In each cell there are users with five reviews each, of items drawn at random: user effects have 30 % of the variance,
items 10 %. Widths are compared with what they would be if the spread of the estimate were known: its standard deviation
over the simulations times 1.96, or times the t of the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from persona.evaluation.metrics.authors import add_swap_gaps
from persona.evaluation.metrics.balance import add_balanced_gaps
from persona.evaluation.metrics.intervals import Estimate, Floats, Ints, add_spread, estimate, estimate_columns

REVIEWS, BLOCK, SEEDS = 5, 10, 3
USERS, ITEMS = (20, 100, 1000), (3, 5, 10, 28)
Cell = dict[str, Any]


def effects(rng: np.random.Generator, users: Ints, items: Ints) -> Floats:
    """One value per review with mean 0 and variance 1: of its user 0.3, of its item 0.1, its own 0.6."""
    by_user, by_item = (rng.normal(size=ids.max() + 1)[ids] for ids in (users, items))
    return np.asarray(0.3**0.5 * by_user + 0.1**0.5 * by_item + 0.6**0.5 * rng.normal(size=len(users)))


def mean(rng: np.random.Generator, users: Ints, items: Ints) -> Estimate:
    return estimate(np.column_stack([effects(rng, users, items), np.ones(len(users))]), users, items)


def ratio(rng: np.random.Generator, users: Ints, items: Ints) -> Estimate:
    """A sum per character, with texts of 5 to 100 characters."""
    characters = rng.integers(5, 100, len(users)).astype(float)
    return estimate(np.column_stack([effects(rng, users, items) * characters, characters]), users, items)


def difference(rng: np.random.Generator, users: Ints, items: Ints) -> Estimate:
    """Two models on the same reviews, with what the reviews have in common."""
    common = effects(rng, users, items)
    one, other = (common + 0.3 * effects(rng, users, items) for _ in range(2))
    return estimate(np.column_stack([one - other, np.ones(len(users))]), users, items)


def seeds(rng: np.random.Generator, users: Ints, items: Ints) -> Estimate:
    """Two recipes of three seeds each, where the spread between seeds is as large as the error of one model's mean."""
    sd = (0.3 / (users.max() + 1) + 0.1 / (items.max() + 1)) ** 0.5
    offsets = rng.normal(0, sd, (2, SEEDS))
    values = effects(rng, users, items) + offsets[0].mean() - offsets[1].mean()
    found = estimate(np.column_stack([values, np.ones(len(users))]), users, items)
    return add_spread(found, float(offsets.var(axis=1, ddof=1).mean()) * 2 / SEEDS, 2 * (SEEDS - 1))


def swap_gap(rng: np.random.Generator, users: Ints, items: Ints) -> Estimate:
    """The swap gap where each user's prompt makes all reviews of its blocks less likely, with a variance of 1."""
    gap, prompt, review = effects(rng, users, items), rng.normal(size=users.max() + 1), rng.normal(0, 10, len(users))
    rows = []
    for block in blocks(rng, items):
        nll = review[block, None] + prompt[users[block]] + 0.3 * rng.normal(size=(len(block), len(block)))
        for row, i in enumerate(block):
            others = np.arange(len(block)) != row
            impostors, swapped = block[others].tolist(), nll[row, others].tolist()
            rows.append((int(i), f"{users[i]:04}", f"{items[i]}", nll[row, row] - gap[i], impostors, swapped))
    names = ["interaction_id", "user_id", "item_id", "nll", "impostor_ids", "nll_impostors"]
    table = pl.DataFrame(rows, schema=names, orient="row").with_columns(nll_empty=0.0, n=1.0)
    table = table.filter(pl.col("impostor_ids").list.len() > 0)
    return estimate_columns(add_balanced_gaps(add_swap_gaps(table)), "swap_gap_balanced", "n")


def blocks(rng: np.random.Generator, items: Ints) -> Iterator[Ints]:
    """The reviews of each item in blocks of at least `BLOCK` where there are that many."""
    for item in np.unique(items):
        members = rng.permutation(np.flatnonzero(items == item))
        yield from np.array_split(members, max(1, len(members) // BLOCK))


KINDS: dict[str, Callable[[np.random.Generator, Ints, Ints], Estimate]] = {
    "mean": mean,
    "ratio": ratio,
    "difference": difference,
    "seeds": seeds,
    "swap_gap": swap_gap,
}


def cell(kind: str, n_users: int, n_items: int, rounds: int) -> Cell:
    """Simulate data `rounds` times. Coverage and width are None where no interval is given."""
    rng = np.random.default_rng([n_users, n_items])
    users = np.repeat(np.arange(n_users), REVIEWS)
    found = [KINDS[kind](rng, users, rng.integers(0, n_items, len(users))) for _ in range(rounds)]
    figures = {"kind": kind, "users": n_users, "items": n_items, "rounds": rounds}
    given = [e for e in found if e.note is None]
    if not given:
        return figures | {"given": 0.0, "coverage": None, "width": None, "width_t": None}
    sd = float(np.std([e.value for e in given]))
    half = np.array([(e.high - e.low) / 2 for e in given])
    t = half / np.array([e.se for e in given])
    return figures | {
        "given": len(given) / rounds,
        "coverage": float(np.mean([e.low <= 0 <= e.high for e in given])),
        # Half widths: that of the intervals in units of 1.96 sd, and in units of t x sd.
        "width": float(np.median(half)) / (1.96 * sd),
        "width_t": float(np.median(half / (t * sd))),
    }


def coverage(rounds: int) -> list[Cell]:
    """All cells; the swap gap with a quarter of the rounds, because its data take longer to simulate."""
    return [
        cell(kind, n_users, n_items, rounds // (4 if kind == "swap_gap" else 1))
        for kind in KINDS
        for n_users in USERS
        for n_items in ITEMS
    ]


def table(cells: list[Cell]) -> str:
    """The cells as lines of text."""
    lines = [f"{'':12}{'users':>6}{'items':>6}{'given':>8}{'covered':>9}{'/ 1.96 sd':>11}{'/ t sd':>8}"]
    for c in cells:
        numbers = [c["given"], c["coverage"], c["width"], c["width_t"]]
        given, covered, *widths = ("-" if x is None else f"{x:.3f}" for x in numbers)
        lines.append(f"{c['kind']:12}{c['users']:>6}{c['items']:>6}{given:>8}{covered:>9}{widths[0]:>11}{widths[1]:>8}")
    return "\n".join(lines)
