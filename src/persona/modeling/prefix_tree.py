"""Samples that share prefixes: the order that makes them neighbours, the rows they are computed in, their layout.

The tokens of the samples form a trie. When samples are sorted by their tokens, a sample shares its longest prefix with
the one just before it, so one number per sample, the length of that prefix, describes the trie. A row computes every
node of its trie once, in the order of a depth-first walk; a node's position id is its depth, and it attends to its
ancestors. The idea is Tree Training (Wang et al. 2025, arXiv:2511.00413), with samples instead of agents' steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[Any]


@dataclass(frozen=True)
class PrefixOrder:
    """Samples sorted by their tokens, so that each follows the one that it shares its longest prefix with.

    Attributes:
        members: indices of the samples.
        lengths: number of tokens of each.
        shared: number of tokens that each has in common with the one before it; 0 for the first.
    """

    members: Ints
    lengths: Ints
    shared: Ints

    @classmethod
    def of(cls, documents: Sequence[Ints], members: Ints) -> PrefixOrder:
        """The order of samples by their tokens, `documents[i]` being those of `members[i]`."""
        order = sorted(range(len(documents)), key=lambda n: sort_key(documents[n]))
        ordered = [documents[n] for n in order]
        shared = [0, *map(common_prefix, ordered[:-1], ordered[1:])]
        return cls(members[order], np.array([len(d) for d in ordered]), np.array(shared))

    def cut(self, max_tokens: int, n_ranks: int = 1) -> list[tuple[int, int]]:
        """Cut the order into rows of at most `max_tokens`, each `(start, stop)`.

        A row computes all tokens of its first sample, also those that the sample before it has. The number of rows is
        the smallest possible, rounded up to a multiple of `n_ranks`; the longest row is then as short as possible. A
        sample longer than `max_tokens` gets a row of its own.
        """
        n_rows = math.ceil(len(self._fill(max_tokens)) / n_ranks) * n_ranks
        least, most = min(int(self.lengths.max()), max_tokens), max_tokens
        while least < most:
            middle = (least + most) // 2
            if len(self._fill(middle)) <= n_rows:
                most = middle
            else:
                least = middle + 1
        return self._fill(most)

    def shared_within(self, start: int, stop: int) -> list[int]:
        """How many tokens each sample of a row shares with the one before it in the row; 0 for the first."""
        return [0, *self.shared[start + 1 : stop].tolist()]

    def _fill(self, max_tokens: int) -> list[tuple[int, int]]:
        """Rows filled one after the other."""
        until = np.cumsum(self.lengths - self.shared)
        rows = []
        start = 0
        while start < len(until):
            # The row [start, stop) has until[stop - 1] - until[start] tokens besides those of its first sample.
            room = max_tokens - int(self.lengths[start]) + int(until[start])
            stop = max(start + 1, int(np.searchsorted(until, room, side="right")))
            rows.append((start, stop))
            start = stop
        return rows


def sort_key(tokens: Ints) -> bytes:
    """Big-endian bytes, which sort as the tokens do, but faster."""
    return bytes(tokens.astype(">i4").tobytes())


def common_prefix(one: Ints, other: Ints) -> int:
    """The length of the longest common prefix of two samples."""
    n = min(len(one), len(other))
    differ = one[:n] != other[:n]
    return int(differ.argmax()) if differ.any() else n


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a row are in their tries.

    The run of a sample is the tokens that it does not share with the sample before it. A run attends to its ancestors
    and, causally, to itself.

    Attributes:
        depths: position of each token within its samples `[T]`.
        ends: for each token the index after its last descendant `[T]`: tokens from its own index up to there see it.
        runs: lengths of the runs; their sum is T.
        seen: for each run the pieces of the row that it sees, in order; the last one ends with the run itself.
    """

    depths: Ints
    ends: Ints
    runs: list[int]
    seen: list[list[slice]]

    @property
    def branches(self) -> bool:
        """Whether a run sees more than itself."""
        widths = (sum(piece.stop - piece.start for piece in seen) for seen in self.seen)
        return any(width > run for width, run in zip(widths, self.runs, strict=True))

    def each_run(self) -> Iterator[tuple[slice, list[slice]]]:
        """Each run as a slice of the row, with the slices that it sees."""
        for run, seen in zip(self.runs, self.seen, strict=True):
            yield slice(seen[-1].stop - run, seen[-1].stop), seen


def lay_out(lengths: Sequence[int], shared: Sequence[int]) -> tuple[Layout, list[Ints]]:
    """Lay out samples in a row.

    Args:
        lengths: number of tokens of each sample.
        shared: how many of them it shares with the sample before it.

    Returns:
        The layout, and for each sample the indices of its tokens in the row.
    """
    n_tokens = sum(lengths) - sum(shared)
    ends, depths = np.full(n_tokens, n_tokens), np.empty(n_tokens, dtype=np.int64)
    path, index = np.empty(0, dtype=np.int64), 0
    paths: list[Ints] = []
    runs, seen = [], []
    for length, common in zip(lengths, shared, strict=True):
        ends[path[common:]] = index
        path = np.concatenate([path[:common], np.arange(index, index + length - common)])
        paths.append(path)
        if length > common:
            depths[index : index + length - common] = np.arange(common, length)
            index += length - common
            runs.append(length - common)
            seen.append([slice(int(piece[0]), int(piece[-1]) + 1) for piece in _pieces(path)])
    return Layout(depths, ends, runs, seen), paths


def _pieces(indices: Ints) -> list[Ints]:
    """Split indices where they are not consecutive."""
    return np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
