"""The training loop: choose the targets of a step, pack them into rows, run the step; keep the best model.

Seed and epoch choose the targets of a step; packing comes afterwards. So the targets of a step, its loss and its
gradient do not depend on the packing or on the number of ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from persona.errors import LOST, PersonaError
from persona.modeling.packing import RowPlan, TokenTable, pack_row, plan_rows, tokens_to_compute
from persona.training.checkpoints import LoopState, RunFolder
from persona.training.engine import optimizer_step
from persona.training.logs import TrainingLog
from persona.training.saving import BestWeights, CheckpointWriter, SaveTimer
from persona.training.settings import Schedule
from persona.training.stopping import StopRequest, any_rank


@dataclass
class Training:
    """One training: its engine, its data and its run folder."""

    engine: Any
    train: TokenTable
    val: TokenTable
    schedule: Schedule
    folder: RunFolder
    writer: CheckpointWriter
    best: BestWeights
    log: TrainingLog | None
    stop: StopRequest

    def __post_init__(self) -> None:
        self._timer = SaveTimer(self.schedule.checkpoint_minutes, self.schedule.checkpoint_share)

    def run(self, state: LoopState) -> LoopState:
        """Train from `state` to the end. The best weights are in `best` then; a checkpoint may still be written.

        Raises:
            PersonaError: a signal stopped it, after a checkpoint was saved; or the loss is not finite, another process
                ended, memory or disk is full.
        """
        self.stop.listen()
        while True:
            steps = step_targets(self.train.users, self.schedule, state.epoch)
            while state.step_in_epoch < len(steps):
                if self._validation_is_due(state, len(steps)):
                    self._validate(state)
                if self._is_finished(state):
                    return state
                self._step_and_log(steps[state.step_in_epoch], state)
                self._save_or_stop(state)
            # A training that was stopped after the last step of an epoch begins here.
            self._validate(state)
            state.epoch += 1
            state.step_in_epoch = 0

    def _is_finished(self, state: LoopState) -> bool:
        """After `max_epochs`, or after `early_stopping_patience` validations without a better loss."""
        schedule = self.schedule
        return state.epoch >= schedule.max_epochs or state.bad_validations >= schedule.early_stopping_patience

    def _validation_is_due(self, state: LoopState, n_steps: int) -> bool:
        """Whether a validation within an epoch comes before the next step."""
        every = self.schedule.validate_every_steps
        within = every is not None and 0 < state.step_in_epoch < n_steps and state.step_in_epoch % every == 0
        return within and state.validated_step < state.global_step

    def _step_and_log(self, targets: np.ndarray, state: LoopState) -> None:
        started = time.perf_counter()
        with explain_errors(f"step {state.global_step + 1}", self.schedule.max_tokens_per_gpu):
            record = self._step(targets, state.global_step)
        state.step_in_epoch += 1
        state.global_step += 1
        state.tokens += record["tokens"]
        record["seconds"] = time.perf_counter() - started
        state.seconds += record["seconds"]
        if self.log is not None:
            self.log.step({"epoch": state.epoch + 1, "step": state.global_step, **record})

    def _save_or_stop(self, state: LoopState) -> None:
        """Save if it is time to, or stop after a save if any rank was told to."""
        every = self.schedule.checkpoint_every_steps
        due = bool(every and state.global_step % every == 0) or (dist.get_rank() == 0 and self._timer.is_due)
        with explain_errors(f"after step {state.global_step}", self.schedule.max_tokens_per_gpu):
            stop, due, writing, failed = any_rank(
                [bool(self.stop.name), due, self.writer.is_writing, self.writer.failed], self.engine.device
            )
        if failed and not self.writer.failed:
            raise PersonaError("another process could not write its part of a checkpoint; its error is in the log")
        started = time.perf_counter()
        if failed or not writing:
            self.folder.conclude(self.writer)
        if stop or due:
            self.folder.save(self.engine, self.writer, self.best, state, behind=not stop)
            held_up = time.perf_counter() - started
            state.saving_seconds += held_up
            self._timer.saved(held_up)
            self._say(f"checkpoint after step {state.global_step}, waited {held_up:.1f} s for it")
        if stop:
            self.folder.conclude(self.writer)
            signal = f" ({self.stop.name})" if self.stop.name else ""
            message = f"told to stop{signal}: saved after step {state.global_step}; start again to go on"
            self._say(message)
            raise PersonaError(message)

    def _say(self, message: str) -> None:
        if self.log is not None:
            self.log.message(message)

    def _step(self, targets: np.ndarray, step: int) -> dict[str, Any]:
        """One optimizer step on exactly these targets; the record for the log."""
        # Seed, step and rank determine the dropout of adapters, so a resumed training draws the same values.
        torch.manual_seed(int(np.random.default_rng([self.schedule.seed, step, dist.get_rank()]).integers(2**63)))
        rows = self._rows(self.train, targets)
        loss = accumulate(self.engine, self.train, targets, rows)
        if not math.isfinite(loss):
            raise PersonaError(f"the loss is {loss}; stopped before a save: lower the learning_rate")
        learning_rate, grad_norm = optimizer_step(self.engine)
        if not math.isfinite(grad_norm):
            raise PersonaError(f"the gradient norm is {grad_norm}; stopped before a save: lower the learning_rate")
        return {
            "loss": loss,
            "lr": learning_rate,
            "grad_norm": grad_norm,
            "samples": len(targets),
            "tokens": int(self.train.lengths[targets].sum()),
            "loss_tokens": int(self.train.completion_lengths[targets].sum()),
            "computed_tokens": sum(tokens_to_compute(self.train, rank_rows) for rank_rows in rows),
            "micro_steps": len(rows[0]),
        }

    def _rows(self, table: TokenTable, targets: np.ndarray) -> list[list[RowPlan]]:
        schedule = self.schedule
        return plan_rows(table, targets, dist.get_world_size(), schedule.max_tokens_per_gpu, schedule.prefix_sharing)

    @cached_property
    def _val_rows(self) -> list[list[RowPlan]]:
        """The rows of all ranks, the same in each validation."""
        return self._rows(self.val, np.arange(len(self.val)))

    def _validate(self, state: LoopState) -> None:
        """Compute the validation loss; keep the weights if they are the best so far."""
        started = time.perf_counter()
        with explain_errors(f"validation after step {state.global_step}", self.schedule.max_tokens_per_gpu):
            val_loss = mean_nll(self.engine, self.val, self._val_rows)
        if not math.isfinite(val_loss):
            raise PersonaError(f"the validation loss is {val_loss}; stopped before a save: lower the learning_rate")
        is_best = val_loss < state.best_val_loss - self.schedule.early_stopping_threshold
        if is_best:
            state.best_val_loss, state.best_epoch, state.best_step = val_loss, state.epoch + 1, state.global_step
            state.bad_validations = 0
            self.best.keep(self.engine.module)
        else:
            state.bad_validations += 1
        state.validated_step = state.global_step
        seconds = time.perf_counter() - started
        state.validation_seconds += seconds
        if self.log is not None:
            self.log.validation(
                {
                    "epoch": state.epoch + 1,
                    "step": state.global_step,
                    "val_loss": val_loss,
                    "is_best": is_best,
                    "seconds": seconds,
                }
            )


def accumulate(engine: Any, table: TokenTable, targets: np.ndarray, planned: list[list[RowPlan]]) -> float:
    """Forward and backward of one optimizer step: its loss in nats per completion token.

    DeepSpeed averages gradients over ranks, so the sum of NLL is multiplied by ranks / completion tokens of the whole
    step: the gradient is that of the mean over the completion tokens of the step.

    Args:
        planned: the rows of all ranks, which contain these targets.
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

    A rank with fewer rows than another computes a target with weight 0, because every rank must run every forward.
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
            raise PersonaError(f"{where}: {LOST}") from error
        raise


def step_targets(users: np.ndarray, schedule: Schedule, epoch: int) -> list[np.ndarray]:
    """The targets of every step of an epoch: a shuffle that depends only on seed and epoch, cut into steps.

    By sample, each step has `samples_per_step` targets and the last one the rest. By user, the users are shuffled. A
    step then ends after the user whose last target is nearest to an even cut, so each of its two ends differs from
    the even cut by at most half the targets of one user. A user with more targets than an even step is treated as
    several users.

    Args:
        users: index of the user of each target.

    Returns:
        For each step the indices of its targets.
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
    # The nearest end; of two equally near ones the earlier, so that no step is empty.
    nearest = np.searchsorted((ends[:-1] + ends[1:]) / 2, even)
    return np.split(np.concatenate(groups), ends[nearest])


def _user_groups(users: np.ndarray, max_targets: int) -> list[np.ndarray]:
    """The targets of each user, in several groups if they are more than `max_targets`."""
    order = np.argsort(users, kind="stable")
    by_user = np.split(order, np.flatnonzero(np.diff(users[order])) + 1)
    return [
        targets[start : start + max_targets] for targets in by_user for start in range(0, len(targets), max_targets)
    ]


def mean_nll(engine: Any, table: TokenTable, planned: list[list[RowPlan]]) -> float:
    """Mean negative log-likelihood of all completion tokens of a table, in nats.

    Args:
        planned: the rows of all ranks, which contain all targets.
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
