"""Hashes the code of a step, so that Snakemake reruns the step when its code changes, but not when a comment does."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

SOURCE = Path(__file__).parents[1]


def code_digest(script: Path) -> str:
    """Hash the syntax trees of a script and of every module of this library that it imports, directly or not.

    Comments, formatting, docstrings and descriptions of settings do not change the hash.

    Returns:
        16 hexadecimal digits.
    """
    pending, seen, digest = [script], set(), hashlib.sha256()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        pending.extend(_imported(ast.parse(path.read_text(encoding="utf-8"))))
    for path in sorted(seen):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        digest.update(f"{path.name}\0{ast.dump(_drop_docstrings(tree))}".encode())
    return digest.hexdigest()[:16]


def _imported(tree: ast.Module) -> list[Path]:
    """The source files of this library that a module imports, also within functions."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "persona":
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    candidates = [SOURCE.joinpath(*name.split(".")) for name in names]
    files = [path.with_suffix(".py") for path in candidates] + [path / "__init__.py" for path in candidates]
    return [file for file in files if file.exists()]


def _drop_docstrings(tree: ast.Module) -> ast.Module:
    """Drop texts that the code does not read: docstrings, and the descriptions below fields of settings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    return tree


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
