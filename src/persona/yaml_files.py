"""Reads YAML so that nothing in it is lost or read as another value than the one that is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from persona.errors import PersonaError

# YAML 1.1 reads 010 as 8 and 1:30 as 90.
OTHER_BASE = re.compile(r"[-+]?(?:0[0-7_]+|\d[\d_]*(?::[0-5]?\d)+(?:\.[\d_]*)?)")
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Refused(yaml.YAMLError):
    """Well-formed YAML that would be read as something else than it says."""


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys and numbers in base 8 or 60."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first_lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line, known = key.start_mark.line + 1, (key.tag, key.value)
            if known in first_lines:
                raise _Refused(
                    f"line {line}: key {key.value!r} is already in line {first_lines[known]}; keep one of them"
                )
            first_lines[known] = line
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        if node.tag in NUMBERS and OTHER_BASE.fullmatch(node.value):
            base = 60 if ":" in node.value else 8
            raise _Refused(
                f"line {node.start_mark.line + 1}: YAML reads {node.value} as a number in base {base}; "
                "write it without leading zeros or colons, or in quotes if it is a text"
            )
        return node


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        PersonaError: it cannot be read, is not YAML in UTF-8, has a key twice, or a number in base 8 or 60.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise PersonaError(f"{path}: cannot be read: {error.strerror}") from error
    except _Refused as error:
        raise PersonaError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PersonaError(f"{path}: not YAML in UTF-8: {' '.join(str(error).split())}") from error
