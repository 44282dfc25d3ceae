"""What the audit allows."""

from __future__ import annotations

from persona.settings import Settings, Share


class Allowances(Settings):
    """Shares of the targets that may have a finding. Any other finding stops the run."""

    near_duplicate: Share = 0.05
    """Share of val and test targets that may be nearly the same as a text of the training prompts."""
    star_named: Share = 0.1
    """Share of val and test targets whose text may name its star rating."""
    two_accounts: Share = 0.01
    """Share of val and test targets whose user may have texts in common with a training user, as if both were one
    person. With `split.by: user` only."""
    quoted_in_training: Share = 0.05
    """Share of val and test targets whose whole text may be within a text of another user in the training prompts."""
    repeated_in_history: Share = 0.05
    """Share of val (and of test) targets that may be nearly the same as an entry of their own history. In training
    samples they are counted alone."""
    quoted_in_history: Share = 0.1
    """Share of val (and of test) targets that may have 20 characters in a row in common with an entry of their own
    history. In training samples they are counted alone."""
