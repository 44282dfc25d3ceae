"""Data shared by the tests: real slices where they are, a small synthetic release, a tiny model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Two workers of pytest, and two ranks of a training, would start threads that compete for the same cores. Commands
# that the tests start inherit it; torch reads it when it is imported, by `persona` below.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml
from hypothesis import HealthCheck, settings

from persona.ingestion.ingest import Ingested
from persona.ingestion.synthetic import write_dmsc_csv
from tests.ingesting import ingested

# The same examples every time; `pytest --hypothesis-profile=thorough` tries others, and more of them.
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("repeatable", max_examples=60, derandomize=True, **COMMON)  # type: ignore[arg-type]
settings.register_profile("thorough", max_examples=2000, **COMMON)  # type: ignore[arg-type]
settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_rows() -> Path:
    path = REAL_DATA / "dmsc" / "DMSC_real_rows.csv"
    if not path.exists():
        pytest.skip(f"the real slice {path.name} is not beside this repository")
    return path


@pytest.fixture(scope="session")
def raw_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "DMSC.csv"
    write_dmsc_csv(path, n_users=400, seed=7)
    return path


@pytest.fixture(scope="session")
def tables(raw_csv: Path) -> Ingested:
    return ingested(raw_csv)


@pytest.fixture(scope="session")
def small_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    config["datasets"]["dmsc"]["synthetic"]["users"] = 120
    # Of so few users a third of the rows have a quirk.
    config["datasets"]["dmsc"]["max_reject_share"] = 0.5
    config["recipes"]["tiny"]["max_epochs"] = 1
    return config


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="write the golden losses anew")


@pytest.fixture
def renew_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--renew-golden"))


# Groups of tests that take longest, longest first.
LONG_GROUPS = ["slurm", "finished", "test_data_sets", "test_resume", "test_parity", "test_faults"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a group run on one worker, which makes the folders that they share once; long groups start first."""
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    order = {group: n for n, group in enumerate(LONG_GROUPS)}
    items.sort(key=lambda item: order.get(groups[item], len(order)))


def _group(item: pytest.Item) -> str:
    """Tests on the Slurm cluster, tests that use `finished`, each slow test by itself, or the tests of a file."""
    if item.path.parent.name == "slurm":
        return "slurm"
    if "finished" in getattr(item, "fixturenames", ()):
        return "finished"
    return item.name if item.get_closest_marker("slow") else item.path.stem
