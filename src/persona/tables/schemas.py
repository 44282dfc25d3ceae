"""The schemas of all Parquet files of the workflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

# Rows per row group. A group may be up to twice as large, because it ends where a user ends.
ROW_GROUP_SIZE, ROW_GROUP_SIZE_OF_LONG_ROWS = 65_536, 4_096


@dataclass(frozen=True)
class TableSchema:
    """The schema of a Parquet file.

    Attributes:
        columns: data types by name, in the order of the file.
        key: the columns that identify a row and that the file is sorted by.
        nullable: the columns that may be null.
        row_group_size: rows per row group.
    """

    columns: dict[str, Any]
    key: tuple[str, ...]
    nullable: frozenset[str] = frozenset()
    row_group_size: int = ROW_GROUP_SIZE

    @property
    def repetitive(self) -> list[str]:
        """Text columns with few distinct values, which are written with a dictionary."""
        names = [name for name, dtype in self.columns.items() if dtype == pl.String]
        return [name for name in names if name not in ("prompt", "completion", "text", "raw")]


TURN = pl.Struct({"speaker": pl.String, "text": pl.String})
FIELD = pl.Struct({"field": pl.String, "value": pl.String})
_TARGET = {"interaction_id": pl.Int64, "user_id": pl.String, "item_id": pl.String}
INTERACTIONS = TableSchema(
    {
        **_TARGET,
        "day": pl.Date,
        # The user's days, conversations or other units of time, numbered from 0. Rows of one session have no order
        # in time.
        "session": pl.Int32,
        "position": pl.Int32,
        "rating": pl.Float32,
        "text": pl.String,
        "likes": pl.Int32,
        "context": pl.List(TURN),
        # Where it stands in the raw data.
        "file": pl.String,
        "row": pl.Int64,
    },
    key=("user_id", "position"),
    nullable=frozenset({"day", "rating", "likes"}),
)
USERS = TableSchema({"user_id": pl.String, "profile": pl.List(FIELD)}, key=("user_id",))
ITEMS = TableSchema({"item_id": pl.String, "title": pl.String, "genres": pl.List(pl.String)}, key=("item_id",))
# `n`: how often an item has this title and these genres.
TITLES = TableSchema({**ITEMS.columns, "n": pl.UInt32}, key=("item_id", "title", "genres"))
REJECTS = TableSchema({"file": pl.String, "row": pl.Int64, "reason": pl.String, "raw": pl.String}, key=("file", "row"))
# Where whole users are in a split, and where a user's reviews may be in several.
SPLIT = TableSchema({"user_id": pl.String, "split": pl.String}, key=("user_id",))
SPLIT_OF_REVIEWS = TableSchema(
    {"user_id": pl.String, "interaction_id": pl.Int64, "split": pl.String}, key=("user_id", "interaction_id")
)
SAMPLES = TableSchema(_TARGET, key=("user_id", "interaction_id"))
PROMPTS = TableSchema(
    {
        **_TARGET,
        "prompt": pl.String,
        "completion": pl.String,
        # Where the text begins in `completion`, in characters: after the line of the stars, if there is one.
        "text_offset": pl.Int32,
        "rating": pl.Float32,
        "history_ids": pl.List(pl.Int64),
        # Earlier entries that are not in the prompt because no model reads so many characters.
        "n_history_left_out": pl.Int32,
        # Offsets in `prompt`, in characters: the start of the section of the history (of the context), of each of its
        # entries, and of the text after it. Tokenization needs them to drop whole entries.
        "history_offsets": pl.List(pl.Int32),
        "context_offsets": pl.List(pl.Int32),
        "n_context": pl.Int32,
    },
    key=("user_id", "interaction_id"),
    nullable=frozenset({"rating"}),
    row_group_size=ROW_GROUP_SIZE_OF_LONG_ROWS,
)
TOKENS = TableSchema(
    {
        "interaction_id": pl.Int64,
        "user_id": pl.String,
        "input_ids": pl.List(pl.Int32),
        "prompt_length": pl.Int32,
        # Index of the text's first token: the end of the prompt, or of the line of the stars after it.
        "text_start": pl.Int32,
        "n_history_dropped": pl.Int32,
        "n_context_dropped": pl.Int32,
        # Whether more was dropped because the completion is longer than the reserve.
        "is_cut_for_completion": pl.Boolean,
    },
    key=("user_id", "interaction_id"),
    row_group_size=ROW_GROUP_SIZE_OF_LONG_ROWS,
)
# Targets that do not fit a model, each with the row of the raw data that it comes from.
OVERLONG = TableSchema(
    {
        "user_id": pl.String,
        "interaction_id": pl.Int64,
        "file": pl.String,
        "row": pl.Int64,
        # Tokens of prompt and completion without history and context.
        "n_tokens": pl.Int32,
        "reason": pl.String,
    },
    key=("user_id", "interaction_id"),
)
TARGETS = TableSchema(
    {
        **_TARGET,
        "cohort": pl.String,
        "rating": pl.Float32,
        "text": pl.String,
        # Whether the text says how many stars it gives.
        "names_star": pl.Boolean,
        # Texts of strictly earlier sessions, which a prompt could show; turns of the conversation before the text.
        "n_history": pl.Int32,
        "n_context": pl.Int32,
        # Mean rating of the history.
        "history_mean": pl.Float64,
        # The users of the targets in one block are each other's impostors. A target that is alone has none.
        "block": pl.Int32,
        # `floor_text`: another user's review of the item, with the same star if there is one. `ceiling_text`: another
        # review of the same user.
        "floor_text": pl.String,
        "ceiling_text": pl.String,
    },
    key=("user_id", "interaction_id"),
    nullable=frozenset({"rating", "history_mean", "block", "floor_text", "ceiling_text"}),
)
SCORES = TableSchema(
    {
        **_TARGET,
        "cohort": pl.String,
        "n_characters": pl.Int32,
        "n_tokens": pl.Int32,
        # Negative log-likelihoods in nats, summed over the text and its end: under the target's own prompt,
        "nll": pl.Float64,
        # with each impostor as the prompt's user (`impostor_ids` are their targets in the block), and without a user.
        "impostor_ids": pl.List(pl.Int64),
        "nll_impostors": pl.List(pl.Float64),
        "nll_empty": pl.Float64,
        # Probabilities of 1 to 5 stars, asked for before the text; the rest to 1 went to other answers.
        "stars": pl.List(pl.Float64),
        # Whether the model was trained to write the stars before the text. If not, `stars` is a zero-shot probe.
        "stars_trained": pl.Boolean,
    },
    key=("user_id", "interaction_id"),
    nullable=frozenset({"impostor_ids", "nll_impostors", "nll_empty", "stars"}),
)
GENERATIONS = TableSchema(
    {
        **_TARGET,
        "method": pl.String,
        "draw": pl.Int32,
        "text": pl.String,
        # What the model wrote in the line before the text, if it wrote one.
        "written_rating": pl.Float64,
        "stop_reason": pl.String,
        # The package that wrote it, with its version.
        "written_by": pl.String,
    },
    key=("user_id", "interaction_id", "method", "draw"),
    nullable=frozenset({"written_rating", "stop_reason", "written_by"}),
)
RATINGS = TableSchema(
    {**_TARGET, "method": pl.String, "rating": pl.Float64}, key=("user_id", "interaction_id", "method")
)
# Negated similarities of a review and each candidate's earlier reviews, named like likelihoods to be ranked like them.
AUTHORS = TableSchema(
    {
        "interaction_id": pl.Int64,
        "user_id": pl.String,
        "cohort": pl.String,
        "n_history": pl.Int32,
        "impostor_ids": pl.List(pl.Int64),
        "nll": pl.Float64,
        "nll_impostors": pl.List(pl.Float64),
    },
    key=("user_id", "interaction_id"),
)
