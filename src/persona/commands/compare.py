"""`persona compare`: two runs or configurations on the same targets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from persona.errors import PersonaError

if TYPE_CHECKING:
    import polars as pl

    from persona.reporting.runs import Difference

ONE_SEED = "Each stage is one training: the intervals hold for these trainings, not for other seeds."
MEASURES = {
    "test_nll": "test NLL",
    "swap_gap": "swap gap",
    "acc": "author found",
    "rmse": "RMSE of stars",
    "chrf": "chrF",
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser("compare", help="compare two results folders on the same targets")
    command.add_argument("a", type=Path, help="folder of a data set's results, such as results/dmsc")
    command.add_argument("b", type=Path, help="the other folder, or the same for two of its stages")
    command.add_argument("--stage", help="a stage of A; default: all that both have")
    command.add_argument("--against", help="its partner in B; default: the stage of the same name")
    command.add_argument("--output", type=Path, default=Path("compare"), help="folder of tables and plot (compare)")


def run(args: argparse.Namespace) -> None:
    """Answer the command."""
    from persona.files import write_text
    from persona.reporting.runs import compare_runs, difference_table, pairs_of, picture, value_table
    from persona.reporting.text_tables import as_markdown
    from persona.study import Study

    if args.output.is_file():
        raise PersonaError(f"{args.output}: is a file; name a folder with --output")
    pairs = pairs_of(Study.load(args.a), Study.load(args.b), args.stage, args.against)
    differences = compare_runs(pairs)
    tables = {"values": value_table(pairs), "differences": difference_table(differences)}
    for name, table in tables.items():
        write_text(table.write_csv(float_precision=6), args.output / f"{name}.csv")
        write_text(as_markdown(table), args.output / f"{name}.md")
    write_text(picture(differences), args.output / "differences.svg")
    n_targets = pairs[0][0].seeds[0].height
    print(
        f"A is {args.a}, B is {args.b}; {n_targets:,} test targets, paired",
        "",
        _values_text(tables["values"]),
        "",
        _differences_text(differences),
        "",
        "Differences are B - A in nats per character with 95 % intervals over users and items. Below 0 in test NLL,",
        "above 0 in swap gap, B is better. p is adjusted by Holm's method over these rows, none of which was planned.",
        *([] if any(len(run.stage.runs) > 1 for pair in pairs for run in pair) else [ONE_SEED]),
        f"tables and plot: {args.output}",
        sep="\n",
    )


def _values_text(table: pl.DataFrame) -> str:
    from persona.reporting.text_tables import interval

    names = [name for name in MEASURES if name in table.columns]
    rows = [
        [row["stage"], row["run"].upper(), *(interval(row, name, ".3f") for name in names)]
        for row in table.iter_rows(named=True)
    ]
    headers = ["stage", "run", *(MEASURES[name] for name in names)]
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True)


def _differences_text(differences: list[Difference]) -> str:
    from persona.reporting.runs import NAMES

    rows = []
    for each in differences:
        found = each.estimate.as_json()
        bounds = each.estimate.note if found["low"] is None else f"[{found['low']:+.4f}, {found['high']:+.4f}]"
        value = "-" if found["value"] is None else f"{found['value']:+.4f}"
        p = "" if each.p_adjusted is None else "<0.0001" if each.p_adjusted < 1e-4 else f"{each.p_adjusted:.4f}"
        helped = f"{each.per_user['helped']:.0%}, {each.per_user['harmed']:.0%}" if each.per_user.get("users") else ""
        rows.append([each.name, NAMES[each.metric], value, bounds, p, helped])
    headers = ["stage", "metric", "B - A", "95 %", "adjusted p", "users helped, harmed"]
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True)
