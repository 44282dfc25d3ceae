"""The training loop: choose a step's targets, pack them, one optimizer step, again; keep the best model.

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
from persona.modeling.packing import TokenTable, pack_row, plan_rows
from persona.training.checkpoints import LoopState, RunFolder, full_disk_explained
from persona.training.export import export_model
from persona.training.logs import TrainingLog
from persona.training.stopping import StopRequest


@dataclass(frozen=True)
class Schedule:
    """How long, in which portions, and when to stop."""

    samples_per_step: int
    max_tokens_per_gpu: int
    max_epochs: int
    early_stopping_patience: int
    early_stopping_threshold: float
    checkpoint_every_steps: int | None
    seed: int

    def steps_per_epoch(self, n_targets: int) -> int:
        """Optimizer steps an epoch; the last one takes what is left."""
        return math.ceil(n_targets / self.samples_per_step)


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
        steps = step_targets(len(self.train), self.schedule, state.epoch)
        for targets in steps[state.step_in_epoch :]:
            started = time.perf_counter()
            with explained(f"step {state.global_step + 1}", self.schedule.max_tokens_per_gpu):
                record = self._step(targets, state.global_step)
                stop = self.stop.agreed(self.engine.device)
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
        loss, micro_steps = accumulate(self.engine, self.train, targets, self.schedule.max_tokens_per_gpu)
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
            "micro_steps": micro_steps,
        }

    def _validate(self, state: LoopState) -> None:
        """Score the validation targets; export the model if it is the best so far."""
        with explained(f"validation after epoch {state.epoch + 1}", self.schedule.max_tokens_per_gpu):
            val_loss = mean_nll(self.engine, self.val, self.schedule.max_tokens_per_gpu)
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


def accumulate(engine: Any, table: TokenTable, targets: np.ndarray, max_tokens: int) -> tuple[float, int]:
    """Forward and backward of one optimizer step: its loss in nats a completion token, and its micro-steps.

    DeepSpeed averages gradients over ranks, so the sum of NLL is scaled by ranks / completion tokens of the whole
    step: the gradient is that of the mean over the step's completion tokens.
    """
    n_tokens = int(table.completion_lengths[targets].sum())
    rows = list(rank_rows(table, targets, max_tokens))
    total = torch.zeros((), device=engine.device)
    engine.train()
    for n, (members, weight) in enumerate(rows):
        nll = engine(pack_row(table, members).to(engine.device)).sum() * weight
        total += nll.detach()
        engine.set_gradient_accumulation_boundary(n == len(rows) - 1)
        engine.backward(nll * (dist.get_world_size() / n_tokens))
    return _sum_over_ranks(total) / n_tokens, len(rows)


@contextmanager
def explained(where: str, max_tokens: int) -> Iterator[None]:
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


def step_targets(n_targets: int, schedule: Schedule, epoch: int) -> list[np.ndarray]:
    """The targets of every step of an epoch: a shuffle that depends on seed and epoch alone, cut in portions."""
    order = np.random.default_rng([schedule.seed, epoch]).permutation(n_targets)
    return [
        order[start : start + schedule.samples_per_step] for start in range(0, n_targets, schedule.samples_per_step)
    ]


def rank_rows(table: TokenTable, targets: np.ndarray, max_tokens: int) -> Iterator[tuple[list[int], float]]:
    """This rank's rows of a set of targets, each with its weight.

    A rank that has fewer rows than another repeats a target with weight 0: every rank runs every forward.
    """
    planned = plan_rows(table.lengths[targets], dist.get_world_size(), max_tokens)
    for members in planned[dist.get_rank()]:
        yield ([int(targets[i]) for i in members], 1.0) if members else ([int(targets[0])], 0.0)


def mean_nll(engine: Any, table: TokenTable, max_tokens: int) -> float:
    """Mean negative log-likelihood of all completion tokens of a table, in nats."""
    engine.eval()
    total = torch.zeros((), device=engine.device, dtype=torch.float64)
    with torch.no_grad():
        for members, weight in rank_rows(table, np.arange(len(table)), max_tokens):
            total += engine(pack_row(table, members).to(engine.device)).sum() * weight
    return _sum_over_ranks(total) / int(table.completion_lengths.sum())


def _sum_over_ranks(value: torch.Tensor) -> float:
    dist.all_reduce(value)
    return float(value)
