"""The schemas are consistent in themselves."""

from __future__ import annotations

import polars as pl
import pytest

from persona.tables import schemas
from persona.tables.schemas import TableSchema

ALL = {name: value for name, value in vars(schemas).items() if isinstance(value, TableSchema)}


@pytest.mark.parametrize("name", sorted(ALL))
def test_keys_and_nullable_columns_are_columns(name: str) -> None:
    table_schema = ALL[name]
    assert set(table_schema.key) | table_schema.nullable <= set(table_schema.columns)
    assert not set(table_schema.key) & table_schema.nullable
    assert pl.DataFrame(schema=table_schema.columns).columns == list(table_schema.columns)


def test_long_texts_have_no_dictionary() -> None:
    assert schemas.PROMPTS.repetitive == ["user_id", "item_id"]
    assert schemas.REJECTS.repetitive == ["file", "reason"]
