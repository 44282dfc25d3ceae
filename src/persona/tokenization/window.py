"""Which history entries of a prompt are kept when not all of them fit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from persona.tokenization.pieces import Ints
from persona.tokenization.settings import FitSettings


def kept_entries(lengths: Ints, counts: Ints, room: Ints, fit: FitSettings) -> npt.NDArray[np.bool_]:
    """Which of the history entries stay: of each prompt the last ones.

    `recent`: as many as there is room for. Then the oldest that stays is another for nearly every target of a user,
    and so is every token after it. `anchored`: from the first of them that begins a block of the user's history, a
    block being half of `max_length`. So the oldest that stays is the same for successive targets until one does not
    fit. Where less than a third of the room would be used, as many as there is room for.

    Either depends on the prompt and, as far as both have to fit, on the length of what is to be written; never on
    which targets are trained together.

    Args:
        lengths: tokens of each entry, one prompt after the other.
        counts: entries of each prompt.
        room: tokens that each prompt has for them.
    """
    until = np.cumsum(lengths)
    begins, ends = until - lengths, np.concatenate([[0], until])[np.cumsum(counts)]
    used = np.repeat(ends, counts) - begins
    fits = used <= np.repeat(room, counts)
    if fit.history_window == "recent":
        return np.asarray(fits)
    row, first = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
    block = (begins - begins[first[row]]) // max(1, fit.max_length // 2)
    is_first = np.arange(len(lengths)) == first[row]
    begins_block = is_first | (block != np.roll(block, 1))
    anchors = np.flatnonzero(fits & begins_block & (3 * used >= np.repeat(room, counts)))
    # The first anchor of each prompt that has one, else beyond all entries.
    anchor = np.full(len(counts), len(lengths))
    np.minimum.at(anchor, row[anchors], anchors)
    has_anchor = (anchor < len(lengths))[row]
    return np.asarray(np.where(has_anchor, np.arange(len(lengths)) >= anchor[row], fits))
