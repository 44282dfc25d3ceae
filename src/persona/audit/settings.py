"""What the audit allows."""

from __future__ import annotations

from persona.settings import Settings, Share


class Allowances(Settings):
    """Shares of the val and test targets that may have a finding. Any other finding stops the run."""

    near_duplicate: Share = 0.05
    """Share of val and test targets that may be nearly the same as a training text."""
    star_named: Share = 0.1
    """Share of val and test targets whose text may name its star rating."""
