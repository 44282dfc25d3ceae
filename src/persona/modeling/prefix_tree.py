"""Samples that share prefixes: an order that makes them neighbours, rows to compute them in, and how a row is laid out.

The tokens of some samples form a trie. In the order of their tokens, of all before it a sample shares most with its
neighbour, so the trie is known by one number a sample: how much that is. A row computes every node of its trie
once; a node's place in the row is that of a depth-first walk, its position is its depth, and it attends to its
ancestors. The idea is Tree Training (Wang et al. 2025, arXiv:2511.00413) with samples instead of agents' steps.
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
    """Samples as neighbours of those that they share most with.

    Attributes:
        members: their numbers.
        lengths: tokens of each.
        shared: how many of them it has in common with the one before it; 0 for the first.
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

        A row computes what its first sample shares with the one before it anew. There are as few rows as can be, up
        to a multiple of `n_ranks`, and among these the longest is as short as can be. A sample longer than
        `max_tokens` gets a row of its own.
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
        """What each sample of a row shares with the one before it; the first one has none before it."""
        return [0, *self.shared[start + 1 : stop].tolist()]

    def _fill(self, max_tokens: int) -> list[tuple[int, int]]:
        """Rows filled one after the other."""
        until = np.cumsum(self.lengths - self.shared)
        rows = []
        start = 0
        while start < len(until):
            # A row from `start` to before `stop` has until[stop - 1] - until[start] tokens and its first sample's.
            room = max_tokens - int(self.lengths[start]) + int(until[start])
            stop = max(start + 1, int(np.searchsorted(until, room, side="right")))
            rows.append((start, stop))
            start = stop
        return rows


def sort_key(tokens: Ints) -> bytes:
    """Bytes that sort as the tokens do, and faster: the most significant first."""
    return bytes(tokens.astype(">i4").tobytes())


def common_prefix(one: Ints, other: Ints) -> int:
    """How many tokens two samples have in common from their beginning on."""
    n = min(len(one), len(other))
    differ = one[:n] != other[:n]
    return int(differ.argmax()) if differ.any() else n


@dataclass(frozen=True)
class Layout:
    """How the tokens of a row lie in their tries.

    A sample adds to the row what it does not share with the one before it: its run. A run attends to its ancestors and,
    causally, to itself.

    Attributes:
        depths: position of each token in its samples `[T]`.
        ends: for each token the place after its last descendant `[T]`; it is seen from its own place to before that.
        runs: lengths of the runs, which sum to T.
        seen: for each run the pieces of the row that it sees, in their order, itself at the end of the last.
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
        """Each run as a piece of the row, and the pieces that it sees."""
        for run, seen in zip(self.runs, self.seen, strict=True):
            yield slice(seen[-1].stop - run, seen[-1].stop), seen


def lay_out(lengths: Sequence[int], shared: Sequence[int]) -> tuple[Layout, list[Ints]]:
    """Lay out samples of these lengths that share so many tokens each with the one before.

    Returns:
        The layout, and for each sample the places of its tokens in the row.
    """
    n_tokens = sum(lengths) - sum(shared)
    ends, depths = np.full(n_tokens, n_tokens), np.empty(n_tokens, dtype=np.int64)
    path, place = np.empty(0, dtype=np.int64), 0
    paths: list[Ints] = []
    runs, seen = [], []
    for length, common in zip(lengths, shared, strict=True):
        ends[path[common:]] = place
        path = np.concatenate([path[:common], np.arange(place, place + length - common)])
        paths.append(path)
        if length > common:
            depths[place : place + length - common] = np.arange(common, length)
            place += length - common
            runs.append(length - common)
            seen.append([slice(int(piece[0]), int(piece[-1]) + 1) for piece in _pieces(path)])
    return Layout(depths, ends, runs, seen), paths


def _pieces(places: Ints) -> list[Ints]:
    """Places cut where one does not follow the other."""
    return np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
