"""Process groups with and without torchrun, and the end of a process whose launcher is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from persona.errors import PersonaError
from persona.modeling.processes import end_with_the_launcher, process_group, require_gpus


@pytest.fixture(autouse=True)
def without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


def test_without_torchrun_the_block_has_a_group_of_one_process() -> None:
    with process_group(deepspeed=False):
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total == 1
    assert not dist.is_initialized()


def test_a_group_that_exists_is_used_and_kept() -> None:
    with process_group(deepspeed=False):
        group = dist.group.WORLD
        with process_group(deepspeed=False):
            assert dist.group.WORLD is group
        assert dist.group.WORLD is group


def test_after_an_error_the_group_of_one_is_left_as_well() -> None:
    with pytest.raises(ValueError, match="wrong"), process_group(deepspeed=False):
        raise ValueError("wrong")
    assert not dist.is_initialized() and "LOCAL_RANK" not in os.environ


def test_a_process_that_torchrun_did_not_start_is_not_ended() -> None:
    end_with_the_launcher()


def test_a_process_whose_torchrun_is_gone_ends_at_once() -> None:
    script = (
        "from persona.modeling.processes import distributed_processes\nwith distributed_processes(): print('alive')"
    )
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "gone"}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stderr.endswith("error: the launcher of this process is gone; start it again to go on\n")
    assert not ended.stdout


def test_gpus_that_this_machine_does_not_have_are_refused() -> None:
    require_gpus(torch.cuda.device_count())
    with pytest.raises(PersonaError, match="the recipe asks for gpus: 4096 and torch finds"):
        require_gpus(4096)
