"""Writes what is beside a file of tokens: what does not fit, what was trimmed, and a preview."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persona.files import write_json, write_text
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.tokenization.overlong import check_share, find_overlong
from persona.tokenization.preview import PREVIEWED_SAMPLES, preview, read_lengths, trimming
from persona.tokenization.settings import FitSettings


@dataclass(frozen=True)
class Outputs:
    """The files to write, and the share of the targets that may be too long.

    Attributes:
        interactions: a file to read: it has the row of the raw data that each target comes from.
    """

    interactions: Path
    overlong: Path
    preview: Path
    trimming: Path
    max_reject_share: float

    @classmethod
    def parse(cls, text: str) -> Outputs:
        """From JSON, as a command gets it."""
        given = json.loads(text)
        interactions, overlong, preview, trimming = (
            Path(given[name]) for name in ("interactions", "overlong", "preview", "trimming")
        )
        return cls(interactions, overlong, preview, trimming, given["max_reject_share"])

    def write(self, prompts: Path, tokens: Path, tokenizer: Any, fit: FitSettings) -> None:
        """Write them.

        Raises:
            PersonaError: more targets do not fit than may.
        """
        overlong = find_overlong(prompts, tokens, self.interactions, tokenizer, fit)
        too_many = self.overlong.with_suffix(f".too_many{self.overlong.suffix}")
        check_share(overlong, prompts, fit, self.max_reject_share, too_many)
        write_table(overlong, self.overlong, schemas.OVERLONG)
        for row in overlong.head(10).iter_rows(named=True):
            print(f"set aside: {row['file']}, row {row['row']}: {row['reason']}")
        lengths = read_lengths(prompts, tokens)
        shown = preview(lengths, prompts, tokens, tokenizer, PREVIEWED_SAMPLES, fit, overlong.height)
        write_text(shown, self.preview)
        write_json(trimming(lengths, fit, overlong.height), self.trimming)
