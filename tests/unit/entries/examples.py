"""Small data of random users, and the prompts of it."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import accumulate

import polars as pl
from hypothesis import strategies as st

from persona.entries.settings import HistorySettings
from persona.prompts import Parts, PromptSpec, Section, Style
from persona.tables import schemas

TITLES = {"i0": "Iron Man", "i1": "Iron Man 2", "i2": "大圣归来", "i3": "大圣闹海", "i4": "Zootopia"}
STYLE = [
    Section("always", None, ("{user_id}",)),
    Section("history", "[HISTORY]", ("{number}. {title}: {text}",)),
    Section("always", None, ("{title}", "{cue}")),
]

# One text: moves on to the next session, of an item, with a text.
text = st.tuples(st.booleans(), st.sampled_from(sorted(TITLES)), st.text("大圣归来 iron man!", min_size=1, max_size=12))
users = st.lists(st.lists(text, min_size=1, max_size=7), min_size=1, max_size=6)


def make_items() -> pl.DataFrame:
    genres = [["action"] if "Iron" in title else [] for title in TITLES.values()]
    columns = {"item_id": list(TITLES), "title": list(TITLES.values()), "genres": genres}
    return pl.DataFrame(columns, schema=schemas.ITEMS.columns)


def make_interactions(users: list[list[tuple[bool, str, str]]], is_dated: bool) -> pl.DataFrame:
    """Users begin on different days, two sessions of a user are two days apart."""
    rows: list[tuple[object, ...]] = []
    for u, texts in enumerate(users):
        sessions = list(accumulate((moves for moves, _, _ in texts[1:]), initial=0))
        for position, ((_, item, words), session) in enumerate(zip(texts, sessions, strict=True)):
            day = date(2016, 1, 1) + timedelta(days=u + 2 * int(session)) if is_dated else None
            target = (len(rows) * 3, f"{u:016x}", item)
            rows.append((*target, day, int(session), position, 3.0, words, None, [], "made.csv", len(rows)))
    return pl.DataFrame(rows, schema=schemas.INTERACTIONS.columns, orient="row")


def make_users(interactions: pl.DataFrame) -> pl.DataFrame:
    ids = interactions["user_id"].unique().sort()
    return pl.DataFrame({"user_id": ids, "profile": [[]] * len(ids)}, schema=schemas.USERS.columns)


def make_split(interactions: pl.DataFrame) -> pl.DataFrame:
    """Two of three users are in train."""
    ids = interactions["user_id"].unique().sort()
    return pl.DataFrame({"user_id": ids, "split": ["test" if n % 3 == 1 else "train" for n in range(len(ids))]})


def make_spec(history: HistorySettings) -> PromptSpec:
    return PromptSpec(Style(STYLE, False), Parts(profile=False, history=True, context=False), "T", "?", history)
