"""Who is asked for, and about what: a text of the data, or one that nobody has written yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from persona.errors import PersonaError
from persona.inference.lookup import find_item, find_target, find_user, user_id_of, user_range
from persona.ingestion.formats import FORMATS
from persona.ingestion.ingest import Ingested, ingest, load
from persona.ingestion.json_values import OTHER, SELF
from persona.ingestion.settings import Options
from persona.prompts import PARTS, other_users, render
from persona.study import Stage, Study
from persona.tables import schemas
from persona.tables.parquet import read_table
from persona.tables.splits import SPLITS, read_split, reviews_in, shown_reviews

UNWRITTEN = -1  # the interaction_id of a text that is not in the data; those of the data are not negative


@dataclass(frozen=True)
class Question:
    """A user and what the user is to write about.

    Attributes:
        target: one row of `schemas.INTERACTIONS`; `UNWRITTEN` where the text is not in the data.
        reviews: the user's texts that the prompt may show, and the target.
        users, items: the rows of `schemas.USERS` and `schemas.ITEMS` that a prompt needs.
        split: that of the target; None if the text or the user is not in the data.
    """

    target: pl.DataFrame
    reviews: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    split: str | None

    @property
    def user_id(self) -> str:
        """The user's hash."""
        return str(self.target["user_id"][0])

    @property
    def title(self) -> str:
        """The title of what is written about."""
        return str(self.items.filter(pl.col("item_id") == self.target["item_id"][0])["title"][0])

    @property
    def real_text(self) -> str | None:
        """What the user wrote, if it is in the data."""
        return None if self.target["interaction_id"][0] == UNWRITTEN else str(self.target["text"][0])

    @property
    def profile(self) -> list[dict[str, str]]:
        """The fields of the user's profile."""
        fields: list[dict[str, str]] = self.users["profile"][0].to_list() if self.users.height else []
        return fields


def ask(
    study: Study,
    user: str | None = None,
    item: str | None = None,
    title: str | None = None,
    target: int | None = None,
    history: Path | None = None,
    context: Sequence[tuple[str, str]] = (),
) -> Question:
    """Find out who is asked for and about what.

    A text of the data is asked for again if the user wrote one about the item and no conversation is given: the last
    one. Its prompt shows what it showed in training or evaluation, so never the text itself nor later ones.

    Args:
        user: a hash or a name; of a `history` with one user it may be left out.
        item: an id or a title; may be left out where all texts of the user are about one item.
        title: of an item that is not in the data.
        target: the id of a text of the data, instead of all others.
        history: texts of a user who is not in the data, in the format `jsonl`.
        context: (speaker, text) of the turns before the text, in dialogue.

    Raises:
        PersonaError: user or item is not there or not unique, or what is given is too little or contradicts itself.
    """
    if target is not None:
        if user or item or title or history or context:
            raise PersonaError("--target names a text, and so its user and item; leave out the others")
        return _of_the_data(study, find_target(study, target))
    if history is not None:
        known = _from_file(study, history, user)
    elif user is None:
        raise PersonaError("no user is given: name one by hash or name, or give a file of texts (--history)")
    else:
        known = _from_tables(study, find_user(study, user))
    item_id, items = _item(study, known, item, title)
    known = replace(known, items=items)
    about = known.interactions.filter(pl.col("item_id") == item_id).sort("position")
    if about.height and not context and history is None:
        return _of_the_data(study, about.tail(1))
    return _unwritten(known, item_id, _as_in_the_data(study, context))


def parse_turn(text: str) -> tuple[str, str]:
    """Speaker and text of a turn that is written as `SPEAKER: TEXT`.

    Raises:
        PersonaError: it is not.
    """
    speaker, colon, said = text.partition(":")
    if not (colon and speaker.strip() and said.strip()):
        raise PersonaError(f"conversation: got {text!r}, allowed is SPEAKER: TEXT")
    return speaker.strip(), said.strip()


def _as_in_the_data(study: Study, context: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The turns as the ingestion makes them: no more than `max_context_turns`, and names hidden where they are.

    Raises:
        PersonaError: the data has no conversations, or hides names and one is given.
    """
    if not context:
        return []
    if not FORMATS[study.data["format"]].has_context:
        raise PersonaError(f"--context: data of the format {study.data['format']} has no conversations; leave it out")
    options = Options.model_validate(study.data["options"])
    names = {speaker for speaker, _ in context} - {SELF, OTHER}
    if names and (options.pseudonymise or options.mask_names):
        raise PersonaError(
            f"--context: got the speaker {sorted(names)[0]}, allowed are {SELF} (the user) and {OTHER}: the names were "
            "left out of this data"
        )
    return list(context)[-options.max_context_turns :]


def _from_tables(study: Study, user_id: str) -> Ingested:
    range_of_user = user_range(user_id)
    return Ingested(
        read_table(study.table("interactions"), schemas.INTERACTIONS, users=range_of_user),
        read_table(study.table("users"), schemas.USERS, users=range_of_user),
        read_table(study.table("items"), schemas.ITEMS),
        pl.DataFrame(),
    )


def _from_file(study: Study, history: Path, user: str | None) -> Ingested:
    """The tables of a file of texts, of one user; titles that the file does not name are those of the data."""
    options = Options.model_validate(study.data["options"])
    if not history.is_file():
        raise PersonaError(f"{history}: no such file; give a file of texts, a JSON object a line")
    with TemporaryDirectory() as folder:
        ingest(history, "jsonl", Path(folder), options, max_reject_share=1.0)
        tables = load(Path(folder))
    if tables.rejects.height:
        row = tables.rejects.row(0, named=True)
        raise PersonaError(f"{history}, line {row['row']}: {row['reason']}; see docs/your-own-data.md for the format")
    ids = tables.users["user_id"]
    if user is not None:
        ids = ids.filter(ids == user_id_of(user))
    if len(ids) != 1:
        found = f"has no user {user}" if user else f"has {tables.users.height:,} users"
        raise PersonaError(f"{history}: {found}; give the texts of one user, or choose one with --user")
    items = read_table(study.table("items"), schemas.ITEMS)
    own = tables.items.filter(pl.col("title") != pl.col("item_id"))
    # What the data knows by the same id and title has its genres too.
    own = own.join(items, on=["item_id", "title"], how="anti")
    return Ingested(
        tables.interactions.filter(pl.col("user_id") == ids[0]),
        tables.users.filter(pl.col("user_id") == ids[0]),
        # A title that the file does not name is looked up in the data.
        pl.concat([own, items, tables.items]).unique("item_id", keep="first", maintain_order=True),
        tables.rejects,
    )


def _item(study: Study, known: Ingested, item: str | None, title: str | None) -> tuple[str, pl.DataFrame]:
    """The id of what is written about, and the items with it."""
    if item is not None and title is not None:
        raise PersonaError("--item names an item of the data and --title one that is not; give one of them")
    if item is not None:
        own = known.items.filter((pl.col("item_id") == item) | (pl.col("title") == item))
        return (str(own["item_id"][0]) if own.height == 1 else find_item(study, item)), known.items
    if title is not None:
        if not title.strip():
            raise PersonaError("--title: it is empty; give the title of the new item")
        same_title = pl.col("title").str.to_lowercase() == title.strip().lower()
        if known.items.filter(same_title | (pl.col("item_id") == title)).height:
            raise PersonaError(f"--title {title}: this title is in the data, so ask for it with --item")
        new = pl.DataFrame({"item_id": [title], "title": [title], "genres": [[]]}, schema=schemas.ITEMS.columns)
        return title, pl.concat([new, known.items]).unique("item_id", keep="first", maintain_order=True)
    of_user = known.interactions["item_id"].unique()
    if len(of_user) == 1:
        return str(of_user[0]), known.items
    raise PersonaError("no item is given: name one by id or title, or give the title of a new one (--title)")


def _of_the_data(study: Study, target: pl.DataFrame) -> Question:
    """A question about a text of the data, with what the prompts of its split show."""
    user_id = str(target["user_id"][0])
    tables = _from_tables(study, user_id)
    split = read_split(study.table("split"), user_range(user_id))
    name = next((name for name in SPLITS if reviews_in(target, split, name).height), None)
    shown = shown_reviews(tables.interactions, split, name) if name else tables.interactions
    return Question(target, shown, tables.users, tables.items, name)


def _unwritten(known: Ingested, item_id: str, context: Sequence[tuple[str, str]]) -> Question:
    """A question about a text that is later than all texts of the user."""
    last = known.interactions.sort("position").tail(1)
    turns = [{"speaker": speaker, "text": text} for speaker, text in context]
    target = last.with_columns(
        interaction_id=pl.lit(UNWRITTEN, dtype=pl.Int64),
        item_id=pl.lit(item_id),
        day=pl.lit(None, dtype=pl.Date),
        session=pl.col("session") + 1,
        position=pl.col("position") + 1,
        rating=pl.lit(None, dtype=pl.Float32),
        text=pl.lit(""),
        context=pl.Series([turns], dtype=pl.List(schemas.TURN)),
        file=pl.lit(""),
        row=pl.lit(0, dtype=pl.Int64),
    )
    return Question(target, pl.concat([known.interactions, target]), known.users, known.items, None)


def render_question(question: Question, stage: Stage, without: frozenset[str]) -> pl.DataFrame:
    """The prompt of a stage for a question, without some of its parts: one row of `schemas.PROMPTS`.

    Raises:
        PersonaError: a part is unknown, or the history is that of another user, whom only texts of the data have.
    """
    if unknown := without - set(PARTS):
        raise PersonaError(f"--without: got {', '.join(sorted(unknown))}, allowed are {', '.join(PARTS)}")
    if question.split is None and not stage.spec.parts.context and question.target["context"][0].len():
        raise PersonaError(f"stage {stage.name} shows no conversation; leave out --context, or choose another stage")
    parts = replace(stage.spec.parts, **dict.fromkeys(without, False))
    spec = replace(stage.spec, parts=parts)
    others = None
    if spec.shows_other_users:
        if question.split is None:
            raise PersonaError(
                f"stage {stage.name} shows the history of another user, who is chosen for texts of the data alone; "
                "choose another stage, or --without history"
            )
        matched = other_users(stage.folder / "interactions.parquet", stage.folder / "split.parquet", spec)
        others = matched.histories_of(question.target) if matched else None
    return render(question.target, question.reviews, question.users, question.items, spec, others)
