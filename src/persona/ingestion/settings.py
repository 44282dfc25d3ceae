"""Settings of reading raw data."""

from __future__ import annotations

from persona.settings import Count, Settings


class Options(Settings):
    """How a raw data set is read."""

    pseudonymise: bool = False
    """Leave the users' names out of everything below `rejects.parquet`; see
    [your-own-data.md](../docs/your-own-data.md)."""
    max_context_turns: Count = 15
    """The context is the last so many turns of the conversation."""
    mask_names: bool = False
    """For `cornell` alone: names of a film's characters in texts become `NAME`, speakers become `SELF` and `OTHER`. A
    capitalised word that is also a name is masked as well."""
