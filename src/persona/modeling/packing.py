"""Rows of tokens: several samples, packed one after the other or as prefix trees. No sample attends to another.

Position ids start at 0 in every sample, wherever it is in the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch.nn import functional

from persona.modeling.prefix_tree import Layout, PrefixOrder, lay_out
from persona.tables import schemas
from persona.tables.parquet import read_parts, read_table

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
ROWS_AT_ONCE = 8_192


@dataclass(frozen=True)
class TokenTable:
    """All samples of a tokens file as flat arrays: sample i is `ids[starts[i]:starts[i + 1]]`, of user `users[i]`."""

    ids: Int32Array
    starts: Int64Array
    prompt_lengths: Int32Array
    users: Int64Array

    @classmethod
    def from_frame(cls, tokens: pl.DataFrame) -> TokenTable:
        """From the columns of `schemas.TOKENS`."""
        lengths = tokens["input_ids"].list.len().to_numpy()
        return cls(
            ids=tokens["input_ids"].explode(empty_as_null=False).to_numpy(),
            starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            prompt_lengths=tokens["prompt_length"].to_numpy(),
            users=tokens["user_id"].rank("dense").to_numpy().astype(np.int64) - 1,
        )

    @classmethod
    def read(cls, path: Path) -> TokenTable:
        """The samples of a tokens file."""
        return cls.from_frame(read_table(path, schemas.TOKENS))

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, sample: int) -> Int32Array:
        """The tokens of a sample, prompt and completion."""
        return self.ids[self.starts[sample] : self.starts[sample + 1]]

    @property
    def lengths(self) -> Int64Array:
        """Tokens of each sample, prompt and completion."""
        return np.diff(self.starts)

    @property
    def computed_lengths(self) -> Int64Array:
        """Tokens of each sample that are computed: all but the last, which predicts nothing."""
        return self.lengths - 1

    @property
    def completion_lengths(self) -> Int64Array:
        """Tokens of each sample that have a loss, including the end token."""
        return self.lengths - self.prompt_lengths


@dataclass(frozen=True)
class PartOfTokens(TokenTable):
    """A tokens file of which the ids of some samples were read, and the lengths of all.

    Attributes:
        ids, starts: of the samples that were read.
        samples: their indices in the file, sorted.
        all_lengths: tokens of each sample of the file.
    """

    samples: Int64Array
    all_lengths: Int64Array

    @classmethod
    def read_some(cls, path: Path, choose: Callable[[Int64Array], Int64Array]) -> PartOfTokens:
        """Read a tokens file in parts, so that no more is in memory than the chosen samples and one part.

        Args:
            choose: from the index of each sample's user to the samples that are read.
        """
        columns = ["user_id", "prompt_length", "input_ids"]
        known = pl.concat(
            part.with_columns(pl.col("input_ids").list.len().cast(pl.Int64))
            for part in read_parts(path, schemas.TOKENS, ROWS_AT_ONCE, columns=columns)
        )
        users = known["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
        samples, lengths = np.unique(choose(users)), known["input_ids"].to_numpy()
        starts = np.concatenate([[0], np.cumsum(lengths[samples])])
        ids = np.empty(starts[-1], dtype=np.int32)
        first = done = 0
        for part in read_parts(path, schemas.TOKENS, ROWS_AT_ONCE, columns=["input_ids"]):
            end = int(np.searchsorted(samples, first + part.height))
            chosen = part["input_ids"].gather(samples[done:end] - first)
            ids[starts[done] : starts[end]] = chosen.explode(empty_as_null=False).to_numpy()
            first, done = first + part.height, end
        return cls(ids, starts, known["prompt_length"].to_numpy(), users, samples, lengths)

    def __getitem__(self, sample: int) -> Int32Array:
        """The tokens of a sample that was read.

        Raises:
            KeyError: it was not.
        """
        n = int(np.searchsorted(self.samples, sample))
        if n == len(self.samples) or self.samples[n] != sample:
            raise KeyError(sample)
        return self.ids[self.starts[n] : self.starts[n + 1]]

    @property
    def lengths(self) -> Int64Array:
        """Tokens of each sample of the file."""
        return self.all_lengths


@dataclass(frozen=True)
class RowPlan:
    """The samples of a row, and how many tokens each shares with the one before it."""

    members: list[int]
    shared: list[int]


@dataclass(frozen=True)
class Row:
    """One row, ready for the model.

    `positions[j]` is the index in the row of the hidden state that predicts `labels[j]`. `samples[j]` is the index,
    within the row, of the sample that this label belongs to.
    """

    input_ids: torch.Tensor  # [1, T] int64
    position_ids: torch.Tensor  # [1, T] int64
    positions: torch.Tensor  # [N] int64
    labels: torch.Tensor  # [N] int64
    samples: torch.Tensor  # [N] int64
    layout: Layout

    def to(self, device: torch.device) -> Row:
        """The same row on a device."""
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)

    def padded(self, length: int) -> Row:
        """The same row, padded at its end to a length."""
        padding = (0, length - self.input_ids.shape[1])
        ids, position_ids = (functional.pad(values, padding) for values in (self.input_ids, self.position_ids))
        return replace(self, input_ids=ids, position_ids=position_ids)


def pack_row(table: TokenTable, members: Sequence[int], shared: Sequence[int] | None = None) -> Row:
    """Put samples into one row.

    Args:
        shared: how many tokens each has in common with the one before it; these are not repeated. By default 0.
    """
    shared = shared or [0] * len(members)
    documents = [table[sample] for sample in members]
    prompts = [int(table.prompt_lengths[sample]) for sample in members]
    layout, paths = lay_out([len(tokens) - 1 for tokens in documents], shared)
    parts = {
        "input_ids": [tokens[common:-1] for tokens, common in zip(documents, shared, strict=True)],
        "positions": [path[prompt - 1 :] for path, prompt in zip(paths, prompts, strict=True)],
        "labels": [tokens[prompt:] for tokens, prompt in zip(documents, prompts, strict=True)],
        "samples": [
            np.full(len(tokens) - prompt, n) for n, (tokens, prompt) in enumerate(zip(documents, prompts, strict=True))
        ],
    }
    flat = {name: torch.from_numpy(np.concatenate(part).astype(np.int64)) for name, part in parts.items()}
    return Row(
        input_ids=flat.pop("input_ids")[None],
        position_ids=torch.from_numpy(layout.depths)[None],
        layout=layout,
        **flat,
    )


def balance(lengths: Int64Array, n_ranks: int) -> list[list[int]]:
    """Distribute items over the ranks: the longest first, each to the rank with the fewest tokens so far."""
    loads = np.zeros(n_ranks, dtype=np.int64)
    shares: list[list[int]] = [[] for _ in range(n_ranks)]
    for item in np.argsort(-lengths, kind="stable"):
        rank = int(np.argmin(loads))
        shares[rank].append(int(item))
        loads[rank] += lengths[item]
    return shares


def fill_rows(lengths: Int64Array, items: list[int], max_tokens: int) -> list[list[int]]:
    """Pack items into rows of at most `max_tokens` by first-fit decreasing.

    An item longer than `max_tokens` gets a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(items, key=lambda i: (-lengths[i], i)):
        length = int(lengths[item])
        row = next((n for n, free in enumerate(room) if free >= length), None)
        if row is None:
            rows.append([item])
            room.append(max_tokens - length)
        else:
            rows[row].append(item)
            room[row] -= length
    return rows


def plan_rows(
    table: TokenTable, samples: Int64Array, n_ranks: int, max_tokens: int, prefix_sharing: bool
) -> list[list[RowPlan]]:
    """The rows of every rank for these samples: as few rows per rank as possible, with balanced work.

    All ranks get the same number of rows, because every rank must run every forward. A rank that would have fewer gets
    empty rows; the caller computes those on any sample, with weight 0.
    """
    lengths = table.computed_lengths[samples]
    packed = [
        [samples[items] for items in fill_rows(lengths, share, max_tokens)] for share in balance(lengths, n_ranks)
    ]
    rounds = max(map(len, packed))
    ranks = _shared_rows(table, samples, n_ranks, max_tokens) if prefix_sharing else []
    # Samples that share little may need fewer rows when they are not in the order of their tokens.
    if not ranks or max(map(len, ranks)) > rounds:
        ranks = [[_plan_row(table, members, prefix_sharing) for members in rows] for rows in packed]
    most = max(map(len, ranks))
    return [rows + [RowPlan([], [])] * (most - len(rows)) for rows in ranks]


def _shared_rows(table: TokenTable, samples: Int64Array, n_ranks: int, max_tokens: int) -> list[list[RowPlan]]:
    """Rows cut from the samples in the order of their tokens."""
    order = _in_order(table, samples)
    rows = [
        RowPlan(order.members[start:stop].tolist(), order.shared_within(start, stop))
        for start, stop in order.cut(max_tokens, n_ranks)
    ]
    return [rows[rank::n_ranks] for rank in range(n_ranks)]


def _plan_row(table: TokenTable, members: Int64Array, prefix_sharing: bool) -> RowPlan:
    if not prefix_sharing:
        return RowPlan(members.tolist(), [0] * len(members))
    order = _in_order(table, members)
    return RowPlan(order.members.tolist(), order.shared.tolist())


def _in_order(table: TokenTable, samples: Int64Array) -> PrefixOrder:
    return PrefixOrder.of([table[sample][:-1] for sample in samples], samples)


def tokens_to_compute(table: TokenTable, rows: Sequence[RowPlan]) -> int:
    """The number of tokens that go through the model for these rows."""
    return sum(int(table.computed_lengths[row.members].sum()) - sum(row.shared) for row in rows)
