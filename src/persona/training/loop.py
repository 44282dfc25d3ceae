"""The training loop: choose a step's targets, put them into rows, one optimizer step, again; keep the best model.

The targets of a step are chosen first, by seed and epoch, and packed afterwards. So which targets make up a
step, its loss and its gradient do not depend on the packing or on the number of ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from persona.errors import PersonaError
from persona.modeling.packing import RowPlan, TokenTable, pack_row, plan_rows, tokens_to_compute
from persona.training.checkpoints import LoopState, RunFolder, full_disk_explained
from persona.training.export import export_model
from persona.training.logs import TrainingLog
from persona.training.settings import Schedule
from persona.training.stopping import StopRequest


@dataclass
class Training:
    """One training: its engine, its data and its place on disk."""

    engine: Any
    tokenizer: Any
    train: TokenTable
    val: TokenTable
    schedule: Schedule
    folder: RunFolder
    log: TrainingLog | None
    stop: StopRequest

    def run(self, state: LoopState) -> LoopState:
        """Train from `state` to the end.

        Raises:
            PersonaError: told to stop before; the state is saved.
        """
        self.stop.listen()
        while not self._at_the_end(state):
            self._run_epoch(state)
            self._validate(state)
            state.epoch += 1
            state.step_in_epoch = 0
            self.folder.save(self.engine, state)
        return state

    def _at_the_end(self, state: LoopState) -> bool:
        """After `max_epochs`, or no better validation for `patience` epochs."""
        schedule = self.schedule
        return state.epoch >= schedule.max_epochs or state.bad_epochs >= schedule.early_stopping_patience

    def _end_early(self, state: LoopState) -> None:
        told = f" ({self.stop.name})" if self.stop.name else ""
        message = f"told to stop{told}: saved after step {state.global_step}; start again to go on"
        if self.log is not None:
            self.log.message(message)
        raise PersonaError(message)

    def _run_epoch(self, state: LoopState) -> None:
        steps = step_targets(self.train.users, self.schedule, state.epoch)
        for targets in steps[state.step_in_epoch :]:
            started = time.perf_counter()
            with explain_errors(f"step {state.global_step + 1}", self.schedule.max_tokens_per_gpu):
                record = self._step(targets, state.global_step)
                stop = self.stop.any_rank_requested(self.engine.device)
            state.step_in_epoch += 1
            state.global_step += 1
            state.tokens += record["tokens"]
            record["seconds"] = time.perf_counter() - started
            state.seconds += record["seconds"]
            if self.log is not None:
                self.log.step({"epoch": state.epoch + 1, "step": state.global_step, **record})
            every = self.schedule.checkpoint_every_steps
            due = every and state.global_step % every == 0 and state.step_in_epoch < len(steps)
            if stop or due:
                self.folder.save(self.engine, state)
            if stop:
                self._end_early(state)

    def _step(self, targets: np.ndarray, step: int) -> dict[str, Any]:
        """One optimizer step on exactly these targets."""
        # Dropout of adapters is a function of seed, step and rank, so a resumed training draws the same.
        torch.manual_seed(int(np.random.default_rng([self.schedule.seed, step, dist.get_rank()]).integers(2**63)))
        rows = self._rows(self.train, targets)
        loss = accumulate(self.engine, self.train, targets, rows)
        if not math.isfinite(loss):
            raise PersonaError(f"the loss is {loss}; stopped before a save: lower the learning_rate")
        learning_rate = self.engine.optimizer.param_groups[0]["lr"]
        self.engine.step()
        grad_norm = float(self.engine.get_global_grad_norm())
        if not math.isfinite(grad_norm):
            raise PersonaError(f"the gradient norm is {grad_norm}; stopped before a save: lower the learning_rate")
        return {
            "loss": loss,
            "lr": learning_rate,
            "grad_norm": grad_norm,
            "samples": len(targets),
            "tokens": int(self.train.lengths[targets].sum()),
            "loss_tokens": int(self.train.completion_lengths[targets].sum()),
            "computed_tokens": sum(tokens_to_compute(self.train, of_rank) for of_rank in rows),
            "micro_steps": len(rows[0]),
        }

    def _rows(self, table: TokenTable, targets: np.ndarray) -> list[list[RowPlan]]:
        schedule = self.schedule
        return plan_rows(table, targets, dist.get_world_size(), schedule.max_tokens_per_gpu, schedule.prefix_sharing)

    def _validate(self, state: LoopState) -> None:
        """Score the validation targets; export the model if it is the best so far."""
        with explain_errors(f"validation after epoch {state.epoch + 1}", self.schedule.max_tokens_per_gpu):
            val_loss = mean_nll(self.engine, self.val, self._rows(self.val, np.arange(len(self.val))))
        if not math.isfinite(val_loss):
            raise PersonaError(f"the validation loss is {val_loss}; stopped before a save: lower the learning_rate")
        is_best = val_loss < state.best_val_loss - self.schedule.early_stopping_threshold
        if is_best:
            state.best_val_loss, state.best_epoch, state.bad_epochs = val_loss, state.epoch + 1, 0
            self.folder.check_room(self.engine)
            with full_disk_explained(self.folder.path):
                export_model(self.engine, self.tokenizer, self.folder.best(state.best_epoch))
        else:
            state.bad_epochs += 1
        if self.log is not None:
            record = {"epoch": state.epoch + 1, "step": state.global_step, "val_loss": val_loss, "is_best": is_best}
            self.log.validation(record)


def accumulate(engine: Any, table: TokenTable, targets: np.ndarray, planned: list[list[RowPlan]]) -> float:
    """Forward and backward of one optimizer step: its loss in nats a completion token.

    DeepSpeed averages gradients over ranks, so the sum of NLL is scaled by ranks / completion tokens of the whole
    step: the gradient is that of the mean over the step's completion tokens.

    Args:
        planned: the rows of all ranks, which hold these targets.
    """
    n_tokens = int(table.completion_lengths[targets].sum())
    rows = planned[dist.get_rank()]
    total = torch.zeros((), device=engine.device)
    engine.train()
    for n, row in enumerate(rows):
        nll = _row_nll(engine, table, row)
        total += nll.detach()
        engine.set_gradient_accumulation_boundary(n == len(rows) - 1)
        engine.backward(nll * (dist.get_world_size() / n_tokens))
    return _sum_over_ranks(total) / n_tokens


def _row_nll(engine: Any, table: TokenTable, row: RowPlan) -> torch.Tensor:
    """The sum of a row's negative log-likelihood.

    A rank that has fewer rows than another computes some target with weight 0: every rank runs every forward.
    """
    nll: torch.Tensor = engine(pack_row(table, row.members or [0], row.shared).to(engine.device)).sum()
    return nll if row.members else nll * 0.0


@contextmanager
def explain_errors(where: str, max_tokens: int) -> Iterator[None]:
    """Say where training stopped and what to change."""
    try:
        yield
    except PersonaError as error:
        raise PersonaError(f"{where}: {error}") from error
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            advice = f"out of memory with rows of {max_tokens} tokens: lower max_tokens_per_gpu (not below max_length)"
            raise PersonaError(f"{where}: {advice}, or set gradient_checkpointing: true") from error
        if isinstance(error, dist.DistError) or "Timed out" in text or "Connection closed" in text:
            raise PersonaError(
                f"{where}: another process ended or did not answer; its own error, if it left one, is in the log"
            ) from error
        raise


def step_targets(users: np.ndarray, schedule: Schedule, epoch: int) -> list[np.ndarray]:
    """The targets of every step of an epoch: a shuffle that depends on seed and epoch alone, cut in portions.

    By sample, each portion has `samples_per_step`, and the last one what is left. By user, those who are shuffled are
    the users: a portion ends after the user whose last target is nearest to where an even cut would be, so that it
    has as many samples as an even one, but for half a user's at each end. A user with more targets than that is
    several.

    Args:
        users: number of the user of each target.
    """
    rng = np.random.default_rng([schedule.seed, epoch])
    n_steps = schedule.steps_per_epoch(len(users))
    if schedule.batch_by == "sample":
        order = rng.permutation(len(users))
        return np.split(order, np.arange(1, n_steps) * schedule.samples_per_step)
    groups = _user_groups(users, len(users) // n_steps)
    groups = [groups[n] for n in rng.permutation(len(groups))]
    ends = np.cumsum([len(group) for group in groups])
    even = np.arange(1, n_steps) * len(users) / n_steps
    # The nearest end; of two as near the earlier one, so that no portion is empty.
    nearest = np.searchsorted((ends[:-1] + ends[1:]) / 2, even)
    return np.split(np.concatenate(groups), ends[nearest])


def _user_groups(users: np.ndarray, at_most: int) -> list[np.ndarray]:
    """The targets of each user, those of one with more than `at_most` in several groups."""
    order = np.argsort(users, kind="stable")
    of_user = np.split(order, np.flatnonzero(np.diff(users[order])) + 1)
    return [targets[start : start + at_most] for targets in of_user for start in range(0, len(targets), at_most)]


def mean_nll(engine: Any, table: TokenTable, planned: list[list[RowPlan]]) -> float:
    """Mean negative log-likelihood of all completion tokens of a table, in nats.

    Args:
        planned: the rows of all ranks, which hold all targets.
    """
    engine.eval()
    total = torch.zeros((), device=engine.device, dtype=torch.float64)
    with torch.no_grad():
        for row in planned[dist.get_rank()]:
            total += _row_nll(engine, table, row)
    return _sum_over_ranks(total) / int(table.completion_lengths.sum())


def _sum_over_ranks(value: torch.Tensor) -> float:
    dist.all_reduce(value)
    return float(value)
