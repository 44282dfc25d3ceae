"""The base of all settings: pydantic models that the configuration is composed of and that commands get as JSON.

A setting is declared once, in a `settings` module beside the code that uses it. The text below a field is its
description: it stands in the JSON schema for editors and in the table of `config/README.md`.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import date
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)


def _as_day(value: Any) -> Any:
    """YAML reads an unquoted day as a date; JSON and a quoted one give text."""
    return date.fromisoformat(value) if isinstance(value, str) else value


# As JSON writes them, so that nothing has two readings, such as 010 or yes.
UNQUOTED = re.compile(r"null|true|false|-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d{1,3})?")

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Day = Annotated[date, BeforeValidator(_as_day)]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


def _unquoted(value: Any) -> Any:
    """A number, `true`, `false` or `null` that was given as text, also within a list; anything else unchanged."""
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    if isinstance(value, str) and UNQUOTED.fullmatch(value):
        return json.loads(value)
    return value


class Settings(BaseModel):
    """Settings that cannot be changed, without unknown keys or values of another type.

    A number, boolean or null may be text where text is not allowed: `snakemake --config` hands over text alone, and
    YAML reads `1e-5` as text.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="wrap")
    @classmethod
    def _accept_unquoted(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            read = _unquoted(value)
            if read == value:
                raise
            with suppress(ValidationError):
                return validate(read)
            raise
