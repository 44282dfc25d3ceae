"""Chooses the history entries of a prompt to keep when not all of them fit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from persona.tokenization.pieces import Ints
from persona.tokenization.settings import FitSettings


def kept_entries(lengths: Ints, counts: Ints, room: Ints, fit: FitSettings) -> npt.NDArray[np.bool_]:
    """Choose the history entries to keep: the last ones of each prompt.

    `recent` keeps as many entries as fit. Then the oldest kept entry differs for nearly every target of a user, and so
    do all tokens after it. `anchored` divides the user's history into blocks, half as long as what the reserve
    leaves of `max_length`, and starts with the first entry of a block. So successive targets start with the same entry,
    until they no longer fit. Where `anchored` would use less than a third of the room, it keeps as many entries as fit.

    The choice depends on the lengths of the prompt, and on that of the completion only if it is longer than the
    reserve. It never depends on which targets are trained together.

    Args:
        lengths: tokens of each entry, `[n_entries]`, one prompt after the other.
        counts: entries of each prompt, `[n_prompts]`.
        room: tokens that each prompt has for its entries, `[n_prompts]`.
        fit: the window, and the length that blocks depend on.

    Returns:
        Whether each entry is kept, `[n_entries]`.
    """
    cumulative = np.cumsum(lengths)
    begins, ends = cumulative - lengths, np.concatenate([[0], cumulative])[np.cumsum(counts)]
    used = np.repeat(ends, counts) - begins
    fits = used <= np.repeat(room, counts)
    if fit.history_window == "recent":
        return np.asarray(fits)
    row, first = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
    block = (begins - begins[first[row]]) // max(1, (fit.max_length - fit.reserve) // 2)
    is_first = np.arange(len(lengths)) == first[row]
    begins_block = is_first | (block != np.roll(block, 1))
    anchors = np.flatnonzero(fits & begins_block & (3 * used >= np.repeat(room, counts)))
    # The first anchor of each prompt; beyond all entries where it has none.
    anchor = np.full(len(counts), len(lengths))
    np.minimum.at(anchor, row[anchors], anchors)
    has_anchor = (anchor < len(lengths))[row]
    return np.asarray(np.where(has_anchor, np.arange(len(lengths)) >= anchor[row], fits))
