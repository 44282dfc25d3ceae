"""The base of all settings: pydantic models that the configuration is composed of and that commands get as JSON.

A setting is declared once, in a `settings` module beside the code that uses it. The text below a field is its
description: it stands in the JSON schema for editors and in the table of `config/README.md`.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def _as_day(value: Any) -> Any:
    """YAML reads an unquoted day as a date; JSON and a quoted one give text."""
    return date.fromisoformat(value) if isinstance(value, str) else value


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Day = Annotated[date, BeforeValidator(_as_day)]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Settings that cannot be changed, without unknown keys or values of another type."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )
