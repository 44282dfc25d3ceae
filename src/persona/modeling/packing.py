"""Rows of tokens: several targets one after the other, each attending to itself alone.

Position ids start at 0 at every target, and the row knows the length of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from persona import artefacts

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenTable:
    """All targets of a tokens file as flat arrays: target i is `ids[starts[i]:starts[i + 1]]`."""

    ids: Int32Array
    starts: npt.NDArray[np.int64]
    prompt_lengths: Int32Array

    @classmethod
    def from_frame(cls, tokens: pl.DataFrame) -> TokenTable:
        lengths = tokens["input_ids"].list.len().to_numpy()
        return cls(
            ids=tokens["input_ids"].explode(empty_as_null=False).to_numpy(),
            starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            prompt_lengths=tokens["prompt_length"].to_numpy(),
        )

    @classmethod
    def read(cls, path: Path) -> TokenTable:
        """The targets of a tokens file."""
        return cls.from_frame(artefacts.read_table(path, artefacts.TOKENS))

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each target, prompt and completion."""
        return np.diff(self.starts)

    @property
    def completion_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens with loss of each target, the end token included."""
        return self.lengths - self.prompt_lengths


@dataclass(frozen=True)
class Row:
    """One packed row, ready for the model.

    `positions[j]` is the place in the row whose hidden state predicts `labels[j]`, and `targets[j]` the
    number of the target that this label belongs to.
    """

    input_ids: torch.Tensor  # [1, T] int64
    position_ids: torch.Tensor  # [1, T] int64
    positions: torch.Tensor  # [N] int64
    labels: torch.Tensor  # [N] int64
    targets: torch.Tensor  # [N] int64
    document_lengths: list[int]  # sum to T

    def to(self, device: torch.device) -> Row:
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)


def pack_row(table: TokenTable, targets: list[int]) -> Row:
    """Put targets into one row. A target's last token predicts nothing, so it is not computed."""
    ids, place, positions, labels, owner = [], [], [], [], []
    offset = 0
    for target in targets:
        tokens = table.ids[table.starts[target] : table.starts[target + 1]]
        prompt = int(table.prompt_lengths[target])
        ids.append(tokens[:-1])
        place.append(np.arange(len(tokens) - 1))
        positions.append(offset + np.arange(prompt - 1, len(tokens) - 1))
        labels.append(tokens[prompt:])
        owner.append(np.full(len(tokens) - prompt, target))
        offset += len(tokens) - 1
    flat = [torch.from_numpy(np.concatenate(part).astype(np.int64)) for part in (ids, place, positions, labels, owner)]
    return Row(flat[0][None], flat[1][None], flat[2], flat[3], flat[4], [len(part) for part in ids])


def balance(lengths: npt.NDArray[np.int64], n_ranks: int) -> list[list[int]]:
    """Share items out over the ranks: the longest first, each to the rank with the fewest tokens so far."""
    loads = np.zeros(n_ranks, dtype=np.int64)
    shares: list[list[int]] = [[] for _ in range(n_ranks)]
    for item in np.argsort(-lengths, kind="stable"):
        rank = int(np.argmin(loads))
        shares[rank].append(int(item))
        loads[rank] += lengths[item]
    return shares


def fill_rows(lengths: npt.NDArray[np.int64], items: list[int], max_tokens: int) -> list[list[int]]:
    """Put items into as few rows of at most `max_tokens` as first-fit decreasing finds.

    An item longer than that gets a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(items, key=lambda i: (-lengths[i], i)):
        length = int(lengths[item])
        at = next((n for n, free in enumerate(room) if free >= length), None)
        if at is None:
            rows.append([item])
            room.append(max_tokens - length)
        else:
            rows[at].append(item)
            room[at] -= length
    return rows


def plan_rows(lengths: npt.NDArray[np.int64], n_ranks: int, max_tokens: int) -> list[list[list[int]]]:
    """The rows of every rank. All ranks get the same number: every rank has to run every forward.

    A rank that would have fewer is given empty rows; the caller computes those on any target, with weight 0.
    """
    shares = [fill_rows(lengths, share, max_tokens) for share in balance(lengths, n_ranks)]
    most = max(len(rows) for rows in shares)
    return [rows + [[]] * (most - len(rows)) for rows in shares]
