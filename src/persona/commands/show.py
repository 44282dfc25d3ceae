"""`persona show`: a user's texts, samples and scores, or one text from its raw row to its score."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from persona.commands.questions import add_results, target_id
from persona.units import shorten

if TYPE_CHECKING:
    from persona.inference.show import StageResult
    from persona.study import Study

WIDTH = 60  # characters of a text in a table
LISTED = 10  # users


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser(
        "show", help="show a user's texts, samples and scores, or one text from raw row to score"
    )
    add_results(command)
    chosen = command.add_mutually_exclusive_group()
    chosen.add_argument("--user", help="hash or name; without it and --target some users of the test set are listed")
    chosen.add_argument("--target", type=target_id, help="interaction_id of one text")


def run(args: argparse.Namespace) -> None:
    """Answer the command."""
    from persona.study import Study

    study = Study.load(args.results)
    if args.user is not None:
        lines = _user_lines(study, args.user)
    else:
        lines = _some_users(study) if args.target is None else _target_lines(study, args.target)
    print(*lines, sep="\n")


def _some_users(study: Study) -> list[str]:
    """Users of the test set with the most earlier texts, and a text of each."""
    import polars as pl

    from persona.inference.lookup import user_names
    from persona.tables import schemas
    from persona.tables.parquet import read_table

    targets = read_table(study.table("targets"), schemas.TARGETS).filter(pl.col("cohort") == "test")
    most = targets.sort("n_history", "interaction_id", descending=[True, False])
    shown = most.unique("user_id", keep="first", maintain_order=True).head(LISTED)
    titles = read_table(study.table("items"), schemas.ITEMS, ["item_id", "title"])
    names = user_names(study).group_by("user_id").agg(pl.col("name").first())
    table = shown.join(titles, on="item_id", how="left").join(names, on="user_id", how="left", maintain_order="left")
    rows = [
        (
            row["user_id"],
            row["name"] or "",
            row["n_history"],
            row["title"],
            row["interaction_id"],
            shorten(row["text"], WIDTH),
        )
        for row in table.iter_rows(named=True)
    ]
    return [
        _table(rows, ["user", "name", "earlier texts", "item", "target", "text"]),
        "",
        "All texts of one: python -m persona show --user USER. Write as one: python -m persona write --user USER",
    ]


def _user_lines(study: Study, wanted: str) -> list[str]:
    from persona.inference.lookup import find_user, user_range
    from persona.inference.show import scores_of, texts_of
    from persona.tables import schemas
    from persona.tables.parquet import read_table

    user_id = find_user(study, wanted)
    texts = texts_of(study, user_id)
    profile = read_table(study.table("users"), schemas.USERS, users=user_range(user_id))["profile"][0]
    rows = [
        (
            row["interaction_id"],
            row["day"] or row["session"],
            row["title"],
            _stars(row["rating"]),
            row["split"] or "none",
            ", ".join(row["sample"] or []),
            shorten(row["text"], WIDTH),
        )
        for row in texts.iter_rows(named=True)
    ]
    lines = [
        f"user {user_id}, {len(rows):,} texts",
        *(f"  {field['field']}: {field['value']}" for field in profile),
        "",
        _table(rows, ["interaction_id", "when", "about", "stars", "split", "target of", "text"]),
    ]
    place = {interaction_id: n for n, interaction_id in enumerate(texts["interaction_id"])}
    scored = [
        (result.score["interaction_id"], *_score_cells(result)) for result in scores_of(study, user_id) if result.score
    ]
    if scored:
        # Text by text in time order, and of each the stages in theirs.
        scored.sort(key=lambda cells: place[cells[0]])
        lines += ["", _table(scored, ["interaction_id", "stage", "NLL a character", "swap gap", "author's place"])]
    return [*lines, "", "One text from its raw row to its score: python -m persona show --target ID"]


def _target_lines(study: Study, interaction_id: int) -> list[str]:
    from persona.inference.show import raw_row, stage_results, target_and_samples

    target, samples, split = target_and_samples(study, interaction_id)
    row = target.row(0, named=True)
    if study.is_pseudonymised:
        raw = "  not shown: it may hold names, which were left out of this data (pseudonymise: true)"
    else:
        raw = raw_row(study, row["file"], row["row"]) or f"  {study.data['path']} is not here any more"
    lines = [
        f"raw row {row['row']:,} of {row['file']}:",
        raw,
        "",
        f"user {row['user_id']}, item {row['item_id']}, {row['day'] or 'no day'}, "
        f"stars {_stars(row['rating']) or 'none'}",
        f"text {row['position'] + 1:,} of this user; session {row['session']:,}, split {split or 'none'}; target of "
        + (", ".join(samples) or "no sample"),
        row["text"],
    ]
    if not samples:
        return [*lines, "", "No stage has a prompt for it: it is shown in the history of other texts alone."]
    for result in stage_results(study, target, samples):
        lines += ["", f"--- stage {result.stage.name} ---", *_stage_lines(result)]
    return lines


def _stage_lines(result: StageResult) -> list[str]:
    if result.prompt is None or result.n_tokens is None:
        return ["no prompt: not a target of this stage, not made yet, or too long for its model"]
    prompt, text = result.n_tokens
    lines = [
        result.prompt,
        "",
        f"{prompt:,} tokens of prompt, {text:,} of text; {result.n_dropped:,} history entries did not fit",
    ]
    if result.score:
        names = ("NLL a character", "swap gap", "author's place")
        lines.append(
            ", ".join(f"{name} {cell}" for name, cell in zip(names, _score_cells(result)[1:], strict=True) if cell)
        )
    lines += [f"{text['method']}: {text['text']}" for text in result.written]
    return lines


def _score_cells(result: StageResult) -> tuple[str, str, str, str]:
    nll, gap, rank = result.nll, result.swap_gap, result.rank
    return (
        result.stage.name,
        "" if nll is None else f"{nll:.3f}",
        "" if gap is None else f"{gap:+.3f}",
        "" if rank is None else f"{rank[0]} of {rank[1]}",
    )


def _stars(rating: float | None) -> str:
    return "" if rating is None else f"{rating:g}"


def _table(rows: list[Any], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True)
