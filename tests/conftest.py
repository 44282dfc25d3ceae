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
    # The demo trains and evaluates with two processes; to start one takes half as long.
    config["recipes"]["tiny"] |= {"max_epochs": 1, "cpu_processes": 1, "gradient_accumulation_steps": 32}
    # Each stage by itself, as where models are large; a new stage evaluates itself alone.
    config["evaluation"]["together"] = False
    return config


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="write the golden losses anew")


@pytest.fixture
def renew_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--renew-golden"))


# Groups of tests that take longest, longest first.
LONG_GROUPS = ["slurm", "finished", "test_demos", "test_faults", "test_data_sets", "test_resume", "test_parity"]
# Together on one worker; the tests of other files copy what that worker made.
USE_FINISHED = ["test_workflow", "test_evaluation", "test_reruns"]
SHARE_NOTHING = ["test_demos", "test_benchmarks"]


def group(nodeid: str) -> str:
    """Tests that run on one worker, since they share folders that take long to make."""
    file = Path(nodeid.split("::")[0])
    if file.parent.name == "slurm":
        return "slurm"
    if file.stem in SHARE_NOTHING:
        return nodeid
    return "finished" if file.stem in USE_FINISHED else file.stem


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long groups start first, so that both workers end at about the same time."""
    order = {name: n for n, name in enumerate(LONG_GROUPS)}
    items.sort(key=lambda item: order.get(group(item.nodeid), order.get(item.path.stem, len(order))))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute groups. xdist's own `loadgroup` sets `_nodeid` of a test, which pytest 9.2 does not read."""
    from xdist.scheduler import LoadFileScheduling

    class GroupScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return GroupScheduling(config, log)
