"""How a prompt is made to fit the model, without torch."""

from __future__ import annotations

from typing import Literal

from persona.settings import Count, Settings


class FitSettings(Settings):
    """What is dropped of a prompt that is too long."""

    max_length: Count
    """Tokens of prompt and completion at most. Older history is dropped to fit, and if that is not enough, the oldest
    turns of the context."""
    history_window: Literal["anchored", "recent"] = "anchored"
    """`anchored`: history is dropped in blocks of up to half of `max_length`, so that successive targets of a user
    begin alike. `recent`: no more is dropped than necessary."""
