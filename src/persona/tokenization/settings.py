"""How a prompt is made to fit the model, without torch."""

from __future__ import annotations

from typing import Literal

from persona.settings import Count, Settings


class FitSettings(Settings):
    """What is dropped of a prompt that is too long."""

    max_length: Count
    """Tokens of prompt and completion at most. Older history is dropped to fit, and if that is not enough, the oldest
    turns of the context."""
    completion_reserve: Count | None = None
    """Tokens of `max_length` that history and context leave free for the completion, so that what is dropped does not
    depend on the target's length. `null` for a quarter. Where a completion is longer, more is dropped for it, which is
    counted."""
    history_window: Literal["anchored", "recent"] = "anchored"
    """`anchored`: history is dropped in blocks of up to half of what the reserve leaves, so that successive targets of
    a user begin alike. `recent`: no more is dropped than necessary."""

    @property
    def reserve(self) -> int:
        """Tokens that are left free for the completion."""
        return self.completion_reserve or self.max_length // 4
