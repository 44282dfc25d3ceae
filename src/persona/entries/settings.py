"""How many history entries a prompt shows, and which, without polars."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from persona.settings import Seed, Settings


class HistorySettings(Settings):
    """Which texts the history of a prompt shows, in the order of time. All are earlier than the target."""

    max_entries: Annotated[int, Field(ge=0)] | None = None
    """Entries at most; `null` for all. 0 shows none, as `use_history: false` does, but counts as a dose."""
    select: Literal["recent", "relevant", "random", "other_user"] = "recent"
    """`recent`: the last ones. `relevant`: those that fit the target's title and genres best (BM25). `random`: drawn
    for each target. `other_user`: as many entries of another user of the same split, as a control; each
    user must be in one split, so not with `split.by: time`, nor `item` where users have several items."""
    seed: Seed = 42
    """Seed of `random` and `other_user`."""


ALL_ENTRIES = HistorySettings()
