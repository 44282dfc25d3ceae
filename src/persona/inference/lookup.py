"""Finds users and items by what people know of them, and says which are nearest where nothing fits."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
from rapidfuzz import fuzz, process

from persona.errors import PersonaError
from persona.ingestion.json_values import NAME_FIELDS
from persona.ingestion.tables import hexadecimal
from persona.seeded_hash import hash64_series
from persona.study import Study
from persona.tables import schemas
from persona.tables.parquet import read_table

SHOWN = 5  # users or items in a message
PART_OF_A_HASH = re.compile("[0-9a-f]{6,15}")


def user_range(user_id: str) -> tuple[str, str]:
    """The range of one user, as `read_table` takes it: ids are hexadecimal digits of one length."""
    return user_id, f"{user_id}0"


def user_id_of(name: str) -> str:
    """The id of a user of this name, where names are what ids are made of."""
    return str(hexadecimal(pl.Series(hash64_series(pl.Series([name]))))[0])


def find_user(study: Study, wanted: str) -> str:
    """The id of a user, who is named by the id (a hash) or its beginning, or by name unless the data is pseudonymised.

    Raises:
        PersonaError: there is no such user, or several have the name.
    """
    path = study.table("users")
    if not wanted.strip():
        raise PersonaError("the user's name is empty; give a hash or a name")
    if read_table(path, schemas.USERS, ["user_id"], user_range(wanted)).height:
        return wanted
    if PART_OF_A_HASH.fullmatch(wanted):
        ids = read_table(path, schemas.USERS, ["user_id"], (wanted, f"{wanted}g"))["user_id"]
        if len(ids) == 1:
            return str(ids[0])
    if study.is_pseudonymised:
        raise PersonaError(
            f"{wanted}: no user has this hash, and names were left out of this data (pseudonymise: true); give the "
            f"hash: {_some_users(path)}"
        )
    # In some data sets the name is what the id is a hash of, in others it stands in the profile.
    hashed = read_table(path, schemas.USERS, ["user_id"], user_range(user_id_of(wanted)))["user_id"]
    named = user_names(study)
    of_name = named.filter(pl.col("name").str.to_lowercase() == wanted.lower())["user_id"]
    found = pl.concat([hashed, of_name]).unique().sort()
    if len(found) == 1:
        return str(found[0])
    if len(found):
        raise PersonaError(f"{wanted}: {len(found):,} users have this name; give a hash: {_described(study, found)}")
    raise PersonaError(f"{wanted}: no user has this name or hash{_nearest_names(wanted, named)}")


def user_names(study: Study) -> pl.DataFrame:
    """`user_id` and `name` of the users whose profile has one."""
    fields = read_table(study.table("users"), schemas.USERS).explode("profile").unnest("profile")
    return fields.filter(pl.col("field").str.to_lowercase().is_in(NAME_FIELDS)).select("user_id", name="value")


def _some_users(users: Path) -> str:
    ids = read_table(users, schemas.USERS, ["user_id"])["user_id"].head(SHOWN)
    return f"for example {', '.join(ids)}"


def _described(study: Study, found: pl.Series) -> str:
    """Some users with how many texts each has."""
    texts = read_table(study.table("interactions"), schemas.INTERACTIONS, ["user_id"])
    counts = texts.filter(pl.col("user_id").is_in(found.to_list())).group_by("user_id").len()
    shown = [
        f"{user} ({n:,} texts)"
        for user, n in counts.sort("len", "user_id", descending=[True, False]).head(SHOWN).iter_rows()
    ]
    return ", ".join(shown) + (", ..." if len(found) > SHOWN else "")


def _nearest_names(wanted: str, named: pl.DataFrame) -> str:
    if not named.height:
        return "; its profiles have no names"
    names = named["name"].unique().sort().to_list()
    nearest = [name for name, _, _ in process.extract(wanted, names, scorer=fuzz.WRatio, limit=3)]
    hashes = dict(named.sort("user_id", descending=True).select("name", "user_id").iter_rows())
    return "; the nearest names are " + ", ".join(f"{name} ({hashes[name]})" for name in nearest)


def find_item(study: Study, wanted: str) -> str:
    """The id of an item, which is named by its id or its title.

    Raises:
        PersonaError: there is no such item, or several have the title.
    """
    items = read_table(study.table("items"), schemas.ITEMS, ["item_id", "title"])
    if (items["item_id"] == wanted).any():
        return wanted
    found = items.filter(pl.col("title").str.to_lowercase() == wanted.lower())["item_id"].sort()
    if len(found) == 1:
        return str(found[0])
    if len(found):
        raise PersonaError(
            f"{wanted}: {len(found):,} items have this title; give an id: {', '.join(found.head(SHOWN))}"
        )
    titles = dict(items.drop_nulls().iter_rows())
    nearest = process.extract(wanted, titles, scorer=fuzz.WRatio, limit=3)
    shown = ", ".join(title if title == item else f"{title} ({item})" for title, _, item in nearest)
    raise PersonaError(
        f"{wanted}: no item has this id or title; the nearest are {shown}. For an item that is not in the data give "
        "--title"
    )


def find_target(study: Study, interaction_id: int) -> pl.DataFrame:
    """The row of `schemas.INTERACTIONS` with this id.

    Raises:
        PersonaError: there is none.
    """
    path = study.table("interactions")
    keys = read_table(path, schemas.INTERACTIONS, ["user_id", "interaction_id"])
    found = keys.filter(pl.col("interaction_id") == interaction_id)
    if not found.height:
        nearest = process.extract(str(interaction_id), keys["interaction_id"].cast(pl.String).to_list(), limit=1)
        hint = f"; the nearest is {nearest[0][0]}" if nearest else ""
        raise PersonaError(
            f"{interaction_id}: no text has this interaction_id{hint}. `python -m persona show --user U` lists those "
            "of a user"
        )
    rows = read_table(path, schemas.INTERACTIONS, users=user_range(found["user_id"][0]))
    return rows.filter(pl.col("interaction_id") == interaction_id)
