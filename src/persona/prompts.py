"""Render prompts: from a target with profile, history and context to the text that the model reads.

A prompt style is data: a list of sections, each with an optional heading and an entry. An entry is a list of
fragments with `{placeholders}`. A fragment whose value is unknown is left out, and so is a section without entries.
A style also says what the model is trained to write: the text alone, or a line with the stars and then the text.

Texts of users cannot imitate headings or other structure. Their line breaks become spaces, so a text begins a line only
where the style puts it, and there an opening bracket becomes a full-width one.
"""

from __future__ import annotations

import difflib
import json
import math
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from persona.entries.choice import chosen_entries
from persona.entries.other_users import OtherUsers
from persona.entries.settings import ALL_ENTRIES, HistorySettings
from persona.errors import PersonaError
from persona.history import earlier_rows, n_earlier
from persona.tables import schemas
from persona.tables.lists import all_between, as_lists
from persona.tables.parquet import count_rows, read_table
from persona.tables.splits import read_split, shown_reviews
from persona.tables.user_ranges import user_ranges
from persona.yaml_files import read_yaml

Int64s = npt.NDArray[np.int64]
Part = Literal["always", "profile", "history", "context"]

# What an ablation switches on and off.
PARTS = ("profile", "history", "context")
PLACEHOLDERS: dict[str, frozenset[str]] = {
    "always": frozenset({"user_id", "task", "title", "genres", "cue"}),
    "profile": frozenset({"field", "value"}),
    "history": frozenset({"number", "title", "genres", "rating", "day", "text"}),
    "context": frozenset({"speaker", "text"}),
}
# What a completion may be, and whether it begins with a line of stars.
COMPLETIONS = {"{text}": False, "{rating}\n{text}": True}
SECTION_SEPARATOR = "\n\n"
# Every character that some reader takes for a line break.
LINE_BREAKS = r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+\s*"
LIKE_STRUCTURE = r"^\s*(?:\d+\.\s*)?\["
CHUNK = 32_768  # targets rendered at once,
ENTRIES_AT_ONCE = 2_000_000  # and about so many history entries to choose from
GENRE_SEPARATOR = "/"
FROM_DATA = {"title", "genres", "field", "value", "speaker", "text"}


@dataclass(frozen=True)
class Section:
    """A block of the prompt: an optional heading line, then one line per entry."""

    part: Part
    heading: str | None
    entry: tuple[str, ...]


@dataclass(frozen=True)
class Style:
    """What prompts and completions look like.

    Attributes:
        sections: the sections of a prompt, in their order.
        trains_stars: whether a completion begins with a line of the stars, if they are known, before the text.
    """

    sections: list[Section]
    trains_stars: bool = False


@dataclass(frozen=True)
class Parts:
    """Which parts of the prompt are switched on. Without `user`, it does not even contain the user's id."""

    profile: bool
    history: bool
    context: bool
    user: bool = True

    def includes(self, section: Section) -> bool:
        """Whether a section is part of the prompt."""
        if section.part == "always":
            return self.user or not any("{user_id}" in fragment for fragment in section.entry)
        return bool(getattr(self, section.part))


@dataclass(frozen=True)
class PromptSpec:
    """What prompts are made of: a style, the parts that are switched on, and two texts of the data set.

    Attributes:
        task: stands for `{task}`.
        cue: stands for `{cue}`, the last line, which asks for the text.
        history: how many history entries are shown, and which.
        max_history_characters: a longer history is shown from a later entry on. What is shown has at most so many
            characters, and with one entry more it would have at least half. None shows all, which for a user of very
            many texts takes much memory.
    """

    style: Style
    parts: Parts
    task: str
    cue: str
    history: HistorySettings = ALL_ENTRIES
    max_history_characters: int | None = None

    @classmethod
    def load(cls, style: Path | Style, settings: dict[str, Any]) -> PromptSpec:
        """From a style or its file, and the other attributes as a command gets them."""
        history = HistorySettings.model_validate(settings.get("history", {}))
        return cls(
            style if isinstance(style, Style) else load_style(style),
            Parts(**settings["parts"]),
            settings["task"],
            settings["cue"],
            history,
            settings.get("max_history_characters"),
        )

    @property
    def sections(self) -> list[Section]:
        """The sections of the style that are switched on."""
        return [section for section in self.style.sections if self.parts.includes(section)]

    @property
    def shows_other_users(self) -> bool:
        """Whether the history is that of another user."""
        return self.parts.history and self.history.select == "other_user"


def load_style(path: Path) -> Style:
    """Read a prompt style.

    Raises:
        PersonaError: the file is missing, has a key twice, is not a prompt style, contains an unknown placeholder, or
            asks for a completion that is not one of `COMPLETIONS`.
    """
    return parse_style(read_yaml(path), path)


def parse_style(data: Any, path: Path) -> Style:
    """A prompt style from what its file holds; `path` is named in messages.

    Raises:
        PersonaError: as `load_style`.
    """
    keys = set(data) if isinstance(data, dict) else set()
    if "sections" not in keys or not keys <= {"sections", "completion"} or not isinstance(data["sections"], list):
        raise PersonaError(f"{path}: a prompt style is one key `sections` with a list, and perhaps `completion`")
    return Style(_sections(path, data["sections"]), _trains_stars(path, data.get("completion", "{text}")))


def outline(spec: PromptSpec) -> str:
    """The prompt with its placeholders: what has to be filled in to ask a model that was trained on such prompts."""
    texts = []
    for section in spec.sections:
        entry = "".join(section.entry).replace("{task}", spec.task).replace("{cue}", spec.cue)
        lines = [section.heading, entry, None if section.part == "always" else "..."]
        texts.append("\n".join(line for line in lines if line))
    return SECTION_SEPARATOR.join(texts)


def _trains_stars(path: Path, completion: Any) -> bool:
    if not isinstance(completion, str) or completion not in COMPLETIONS:
        allowed = " or ".join(json.dumps(known) for known in COMPLETIONS)
        raise PersonaError(f"{path}: completion: got {completion!r}, allowed is {allowed}")
    return COMPLETIONS[completion]


def _sections(path: Path, data: list[Any]) -> list[Section]:
    sections = [_section(path, f"sections[{n}]", section) for n, section in enumerate(data)]
    if not sections or sections[-1].part != "always" or not sections[-1].entry[-1].endswith("{cue}"):
        raise PersonaError(f"{path}: the last section must be one without `part` that ends with {{cue}}")
    if "{genres}" in sections[-1].entry[-1]:
        raise PersonaError(f"{path}: {{cue}} and {{genres}}, which may be unknown, must be fragments of their own")
    if any("{user_id}" in fragment for fragment in sections[-1].entry):
        raise PersonaError(f"{path}: the last section must not hold {{user_id}}: the evaluation leaves the user out")
    for part in PARTS:
        if sum(section.part == part for section in sections) > 1:
            raise PersonaError(f"{path}: there is more than one {part} section")
    return sections


def _section(path: Path, where: str, data: Any) -> Section:
    if not isinstance(data, dict) or "entry" not in data or not set(data) <= {"part", "heading", "entry"}:
        raise PersonaError(f"{path}: {where}: a section has `entry` and may have `part` and `heading`, got {data!r}")
    part, heading = data.get("part", "always"), data.get("heading")
    if not isinstance(part, str) or part not in PLACEHOLDERS:
        raise PersonaError(f"{path}: {where}.part: got {part!r}, allowed are {', '.join(PLACEHOLDERS)}")
    if heading is not None and (not isinstance(heading, str) or not heading.strip()):
        raise PersonaError(f"{path}: {where}.heading: got {heading!r}, allowed is a text, or no heading")
    fragments = data["entry"] if isinstance(data["entry"], list) else [data["entry"]]
    names = [name for fragment in fragments for name in _placeholders(path, where, part, fragment)]
    if not names:
        raise PersonaError(f"{path}: {where}.entry: got {data['entry']!r}, allowed is text with a {{placeholder}}")
    if part == "history" and not {"number", "title"} & set(names):
        raise PersonaError(f"{path}: {where}.entry: a history entry needs {{number}} or {{title}}, or it may be empty")
    return Section(cast(Part, part), heading, tuple(fragments))


def _placeholders(path: Path, where: str, part: str, fragment: Any) -> list[str]:
    """The names in a fragment, each one checked."""
    try:
        fields = [(name, spec or conversion) for _, name, spec, conversion in string.Formatter().parse(fragment)]
    except (ValueError, TypeError) as error:
        raise PersonaError(f"{path}: {where}.entry: {fragment!r} is not a text with {{placeholders}}") from error
    names = [name for name, _ in fields if name is not None]
    if any(how for _, how in fields):
        raise PersonaError(f"{path}: {where}.entry: {fragment!r} formats a value; allowed is {{name}} alone")
    for name in names:
        if name not in PLACEHOLDERS[part]:
            nearest = difflib.get_close_matches(name, PLACEHOLDERS[part], n=1)
            hint = f" (did you mean {{{nearest[0]}}}?)" if nearest else ""
            allowed = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS[part]))
            raise PersonaError(f"{path}: {where}.entry: unknown {{{name}}}{hint}, a {part} section has {allowed}")
    return names


def render(
    targets: pl.DataFrame,
    interactions: pl.DataFrame,
    users: pl.DataFrame,
    items: pl.DataFrame,
    spec: PromptSpec,
    others: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Render one prompt and completion per target.

    The history of a target is the user's texts of strictly earlier sessions, oldest first, or some of them. Each text
    is rendered once, however many targets it serves. `likes` are never read: they were counted when the data was
    crawled, which is later than the target.

    Args:
        targets: with `interaction_id`.
        interactions: all interactions of the targets' users.
        users: profiles, `schemas.USERS`.
        items: titles and genres, `schemas.ITEMS`.
        spec: what a prompt is made of.
        others: the histories of other users, from `OtherUsers.histories_of`, if the prompts show these.

    Returns:
        The columns of `schemas.PROMPTS`.
    """
    reviews = _with_titles(interactions, items)
    rows = targets.select("interaction_id").join(reviews, on="interaction_id", how="left")
    return _render(rows, reviews, users, spec, _chosen(rows, reviews, items, spec, others))


def render_pairs(
    pairs: pl.DataFrame,
    targets: pl.DataFrame,
    interactions: pl.DataFrame,
    users: pl.DataFrame,
    items: pl.DataFrame,
    spec: PromptSpec,
    others: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Render prompts of targets with another user: item, conversation and text are the target's.

    Profile, id and history are the other user's. The history is that of that user's own target, so each user has the
    same one for all targets.

    Args:
        pairs: `interaction_id` of the target, `user_id` of the other user and `impostor_id`, that user's own target.
        targets: the interactions of the targets.
        interactions: all interactions of the other users.
        users, items, spec: as for `render`.
        others: as for `render`, for the users' own targets.

    Returns:
        The columns of `schemas.PROMPTS`, with the other user's id.
    """
    reviews = _with_titles(interactions, items)
    asked = _with_titles(targets, items).drop("user_id", "session", "position")
    until = reviews.select("session", impostor_id="interaction_id")
    rows = pairs.join(until, on="impostor_id", how="left").join(asked, on="interaction_id", how="left")
    own = reviews.join(pairs.select(interaction_id="impostor_id"), on="interaction_id", how="semi")
    return _render(rows, reviews, users, spec, _chosen(own, reviews, items, spec, others), "impostor_id")


def _with_titles(interactions: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    return interactions.drop("likes", strict=False).join(items, on="item_id", how="left")


def _render(
    rows: pl.DataFrame,
    reviews: pl.DataFrame,
    users: pl.DataFrame,
    spec: PromptSpec,
    chosen: pl.DataFrame | None,
    history_of: str = "interaction_id",
) -> pl.DataFrame:
    """Render rows that have an item, a conversation, a text, and a user with the session that the history ends before.

    Args:
        reviews: all of these users, with titles.
        chosen: from `_chosen`.
        history_of: the column with the target whose chosen history is shown.
    """
    rows = rows.join(users, on="user_id", how="left").with_columns(task=pl.lit(spec.task), cue=pl.lit(spec.cue))
    section = next((section for section in spec.sections if section.part == "history"), None)
    if section and chosen is not None:
        rows = _with_chosen_history(rows, chosen, section, history_of, spec.max_history_characters)
    elif section:
        rows = _with_history(rows, reviews, section, spec)
    else:
        rows = rows.with_columns(
            history_ids=pl.lit([], dtype=pl.List(pl.Int64)),
            history_entries=pl.lit([], dtype=pl.List(pl.String)),
            n_history_left_out=pl.lit(0, dtype=pl.Int32),
        )
    return _assemble(rows, spec)


def render_file(
    sample: Path,
    interactions: Path,
    users: Path,
    items: Path,
    spec: PromptSpec,
    bucket: tuple[int, int] = (1, 1),
    split: tuple[Path, str] | None = None,
) -> Iterator[pl.DataFrame]:
    """Render a sample of any size, one range of users at a time or less, in the order of their ids.

    Args:
        sample, interactions, users, items: Parquet files.
        spec: what a prompt is made of.
        bucket: (k, m) for the k-th of m parts of the users.
        split: the split table and the split of the sample, whose prompts may show only some of the interactions; by
            default they may show all. Prompts with histories of other users, who may be of any bucket, need it.

    Yields:
        The prompts of some targets, as `render` returns them.
    """
    others = other_users(interactions, split[0] if split else None, spec)
    titles = read_table(items, schemas.ITEMS)
    n = math.ceil(count_rows(sample) / CHUNK / bucket[1])
    for user_range in user_ranges(max(1, n), bucket):
        targets = read_table(sample, schemas.SAMPLES, users=user_range)
        reviews = read_table(interactions, schemas.INTERACTIONS, users=user_range)
        if split:
            reviews = shown_reviews(reviews, read_split(split[0], user_range), split[1])
        profiles = read_table(users, schemas.USERS, users=user_range)
        for part in _parts(targets, reviews, spec):
            yield render(part, reviews, profiles, titles, spec, others.histories_of(part) if others else None)


def _parts(targets: pl.DataFrame, reviews: pl.DataFrame, spec: PromptSpec) -> Iterator[pl.DataFrame]:
    """The targets in parts, so that their histories have about `ENTRIES_AT_ONCE` entries together."""
    if not spec.parts.history:
        yield targets
        return
    n = pl.col("n_earlier")
    if spec.history.select == "recent":
        # The others look at all entries to choose some.
        n = pl.min_horizontal(n, pl.lit(_most_entries(spec)))
    earlier = reviews.select("interaction_id", n_earlier=n_earlier().cast(pl.Int64))
    ordered = targets.sort("user_id", "interaction_id")
    numbered = ordered.join(earlier, on="interaction_id", how="left", maintain_order="left")
    numbered = numbered.with_columns(part=n.fill_null(0).cum_sum() // ENTRIES_AT_ONCE).drop("n_earlier")
    yield from numbered.partition_by("part", include_key=False, maintain_order=True) or [targets]


def _most_entries(spec: PromptSpec) -> int | None:
    """About the most entries of a history; an entry has a line of its own, mostly of more than ten characters."""
    limits = [spec.history.max_entries, spec.max_history_characters and spec.max_history_characters // 10]
    return min((limit for limit in limits if limit is not None), default=None)


def other_users(interactions: Path, split: Path | None, spec: PromptSpec) -> OtherUsers | None:
    """The users to take histories from, if the prompts show those of other users.

    Raises:
        PersonaError: the split is not given.
    """
    if not spec.shows_other_users:
        return None
    if split is None:
        raise PersonaError("prompts with the history of another user need the split of each user; give --split")
    return OtherUsers.load(interactions, split, spec.history)


def render_pairs_file(
    pairs: pl.DataFrame, interactions: Path, users: Path, items: Path, spec: PromptSpec, split: Path | None = None
) -> Iterator[pl.DataFrame]:
    """Render pairs of targets and other users, one range of these users at a time, in the order of their ids.

    Args:
        pairs: as for `render_pairs`.
        interactions, users, items: Parquet files.
        spec: what a prompt is made of.
        split: the split table, if the prompts show histories of other users.

    Yields:
        The prompts of one range of users, as `render_pairs` returns them.
    """
    others = other_users(interactions, split, spec)
    titles = read_table(items, schemas.ITEMS)
    asked = pairs.select("interaction_id").unique()
    targets = pl.concat(
        read_table(interactions, schemas.INTERACTIONS, users=part).join(asked, on="interaction_id", how="semi")
        for part in user_ranges(max(1, math.ceil(count_rows(interactions) / CHUNK)))
    )
    at_once = max(1, ENTRIES_AT_ONCE // (_most_entries(spec) or 200)) if spec.parts.history else CHUNK
    for part in user_ranges(max(1, math.ceil(pairs.height / CHUNK))):
        of_part = pairs.filter(pl.col("user_id") >= part[0], pl.col("user_id") < part[1])
        reviews = read_table(interactions, schemas.INTERACTIONS, users=part)
        profiles = read_table(users, schemas.USERS, users=part)
        for some in of_part.sort("user_id", "interaction_id").iter_slices(at_once):
            own = some.select(interaction_id=pl.col("impostor_id").unique())
            histories = others.histories_of(own) if others else None
            yield render_pairs(some, targets, reviews, profiles, titles, spec, histories)


def _chosen(
    targets: pl.DataFrame, reviews: pl.DataFrame, items: pl.DataFrame, spec: PromptSpec, others: pl.DataFrame | None
) -> pl.DataFrame | None:
    """The texts that make up each history: `interaction_id`, `history_id` and what an entry shows, oldest first.

    None where a prompt shows all earlier texts of the user, the last of them, or no history.
    """
    if not spec.parts.history or spec.history.select == "recent":
        return None
    if spec.shows_other_users:
        if others is None:
            raise PersonaError("the histories of other users are missing; give `others` to `render`")
        return others.join(items, on="item_id", how="left", maintain_order="left")
    texts = reviews.drop("user_id", "session").rename({"interaction_id": "history_id"})
    pairs = chosen_entries(targets, reviews, spec.history)
    return pairs.join(texts, on="history_id", how="left", maintain_order="left")


def _with_chosen_history(
    rows: pl.DataFrame, chosen: pl.DataFrame, section: Section, history_of: str, max_characters: int | None
) -> pl.DataFrame:
    """Add `history_ids` and `history_entries`: the texts that were chosen for the target in column `history_of`.

    Of these the last ones that have at most `max_characters` together; `n_history_left_out` counts the others.
    """
    once = chosen.unique("history_id").with_columns(number=pl.col("position") + 1)
    entries = once.select("history_id", history_entries=_entry(section.entry, pl.col))
    pairs = chosen.select("interaction_id", "history_id").join(
        entries, on="history_id", how="left", maintain_order="left"
    )
    until_the_end = (pl.col("history_entries").str.len_chars() + 1).cum_sum(reverse=True).over("interaction_id")
    fits = pl.lit(True) if max_characters is None else until_the_end <= max_characters
    lists = (
        pairs.with_columns(fits=fits)
        .group_by("interaction_id", maintain_order=True)
        .agg(
            pl.col("history_entries").filter("fits"),
            history_ids=pl.col("history_id").filter("fits"),
            n_history_left_out=(~pl.col("fits")).sum().cast(pl.Int32),
        )
    )
    empty = pl.col("history_ids", "history_entries").fill_null([]), pl.col("n_history_left_out").fill_null(0)
    return rows.join(lists, left_on=history_of, right_on="interaction_id", how="left").with_columns(*empty)


def _with_history(rows: pl.DataFrame, reviews: pl.DataFrame, section: Section, spec: PromptSpec) -> pl.DataFrame:
    """Add `history_ids` and `history_entries`: the user's texts before the target's session, or the last of them.

    All are a part of the list of all the user's texts. `n_history_left_out` counts those that are not shown because of
    `max_history_characters`.
    """
    reviews = reviews.join(rows.select("user_id"), on="user_id", how="semi").sort("user_id", "position")
    entries = reviews.with_columns(number=pl.col("position") + 1).select(_entry(section.entry, pl.col)).to_series()
    first, end = earlier_rows(rows, reviews)
    if spec.history.max_entries is not None:
        first = np.maximum(first, end - spec.history.max_entries)
    start = first
    if spec.max_history_characters is not None:
        lengths = entries.str.len_chars().to_numpy().astype(np.int64) + 1
        start = _first_shown(first, end, np.concatenate([[0], np.cumsum(lengths)]), spec.max_history_characters)
    counts, shown = end - start, all_between(start, end)
    return rows.with_columns(
        history_ids=as_lists(reviews["interaction_id"].gather(shown), counts),
        history_entries=as_lists(entries.gather(shown), counts),
        n_history_left_out=pl.Series(start - first, dtype=pl.Int32),
    )


def _first_shown(first: Int64s, end: Int64s, until: Int64s, max_characters: int) -> Int64s:
    """The first entry to show of each history, so that it has at most so many characters.

    A history is cut where blocks of half as many characters begin. So the histories of successive targets begin with
    the same entry, until they no longer fit; see `persona.tokenization.window`.

    Args:
        first, end: the entries of each history, `[n_prompts]`.
        until: the characters of all entries before each entry, `[n_entries + 1]`.
    """
    block = max(1, max_characters // 2)
    too_many = np.maximum(0, until[end] - until[first] - max_characters)
    begin = np.searchsorted(until, until[first] + -(-too_many // block) * block)
    return np.asarray(np.minimum(begin, end))


def _assemble(rows: pl.DataFrame, spec: PromptSpec) -> pl.DataFrame:
    sections = spec.sections
    for section in sections:
        if section.part in ("profile", "context"):
            rows = rows.with_columns(_entries(section).alias(f"{section.part}_entries"))
    names = [f"section_{n}" for n in range(len(sections))]
    rows = rows.with_columns(_section_text(section).alias(names[n]) for n, section in enumerate(sections))
    offsets = {f"{part}_offsets": _offsets(part, names, sections) for part in ("history", "context")}
    star_line = _star_line() if spec.style.trains_stars else pl.lit("")
    return rows.with_columns(
        prompt=pl.concat_str(names, separator=SECTION_SEPARATOR, ignore_nulls=True), **offsets
    ).select(
        "interaction_id",
        "user_id",
        "item_id",
        "rating",
        "history_ids",
        "n_history_left_out",
        "prompt",
        *offsets,
        completion=pl.concat_str(star_line, "text"),
        text_offset=star_line.str.len_chars().cast(pl.Int32),
        n_context=pl.col("context").list.len() if spec.parts.context else pl.lit(0),
    )


def _star_line() -> pl.Expr:
    """The first line of a completion, such as `4`, with its line break; empty where the rating is unknown."""
    # As few tokens as can be: history has `4.0`.
    rating = pl.col("rating").cast(pl.Float32).cast(pl.String).str.strip_suffix(".0")
    return pl.concat_str(rating, pl.lit("\n")).fill_null("")


def _entries(section: Section) -> pl.Expr:
    """The rendered entries of a profile or a context, without empty ones."""
    entries = pl.col(section.part).list.eval(_entry(section.entry, lambda name: pl.element().struct.field(name)))
    return entries.list.eval(pl.element().filter(pl.element() != ""))


def _section_text(section: Section) -> pl.Expr:
    """The text of a section, or null where it has no entries."""
    if section.part == "always":
        body = _entry(section.entry, pl.col)
    else:
        body = pl.col(f"{section.part}_entries").list.join("\n")
    heading = f"{section.heading}\n" if section.heading else ""
    return pl.when(body != "").then(pl.lit(heading) + body)


def _entry(fragments: tuple[str, ...], field: Any) -> pl.Expr:
    """The fragments joined, without those that have an unknown value."""
    return pl.concat_str([_fragment(fragment, field).fill_null("") for fragment in fragments])


def _fragment(fragment: str, field: Any) -> pl.Expr:
    pieces: list[pl.Expr] = []
    for literal, name, _, _ in string.Formatter().parse(fragment):
        if literal:
            pieces.append(pl.lit(literal))
        if name:
            value = _value(name, field)
            # Any fragment may begin the line: those before it may be unknown.
            pieces.append(_without_structure(value) if not pieces and name in FROM_DATA else value)
    return pl.concat_str(pieces)


def _without_structure(text: pl.Expr) -> pl.Expr:
    """Replace the brackets of a text that would look like a heading or a history entry at the beginning of a line."""
    return (
        pl.when(text.str.contains(LIKE_STRUCTURE)).then(text.str.replace_all("[", "［", literal=True)).otherwise(text)
    )


def _value(name: str, field: Any) -> pl.Expr:
    value: pl.Expr = field(name)
    if name == "genres":
        value = pl.when(value.list.len() > 0).then(value.list.join(GENRE_SEPARATOR))
    if name == "rating":
        return value.cast(pl.Float64).round(1).cast(pl.String)
    if name == "day":
        return value.dt.to_string("%Y-%m-%d")
    if name == "field":
        value = value.str.to_uppercase()
    if name == "number":
        return value.cast(pl.String)
    # An entry is one line.
    return value.str.replace_all(LINE_BREAKS, " ")


def _offsets(part: Part, names: list[str], sections: list[Section]) -> pl.Expr:
    """Character offsets in the prompt: start of a part's section, of each of its entries, and end of the last one."""
    none = pl.lit([], dtype=pl.List(pl.Int32))
    at = next((n for n, section in enumerate(sections) if section.part == part), None)
    if at is None:
        return none
    lengths = [pl.col(name).str.len_chars() + len(SECTION_SEPARATOR) for name in names[:at]]
    start = pl.sum_horizontal([length.fill_null(0) for length in lengths]) if lengths else pl.lit(0)
    heading = sections[at].heading
    first = start + (len(heading) + 1 if heading else 0)
    entries = pl.col(f"{part}_entries")
    ends = entries.list.eval((pl.element().str.len_chars() + 1).cum_sum())
    # After the last entry comes a section separator, which is one character longer than a line break.
    ends = pl.concat_list(ends.list.slice(0, ends.list.len() - 1), ends.list.last() + len(SECTION_SEPARATOR) - 1)
    offsets = pl.concat_list(start.cast(pl.Int64), first.cast(pl.Int64), ends.cast(pl.List(pl.Int64)) + first)
    return pl.when(entries.list.len() > 0).then(offsets.cast(pl.List(pl.Int32))).otherwise(none)
