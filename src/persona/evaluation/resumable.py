"""Work that goes on after a kill: it is cut into units, and their results are written as they come."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch.distributed as dist

from persona.errors import LOST, PersonaError
from persona.files import atomic_path
from persona.progress import progress_bar
from persona.units import clock

LONGEST_WAIT = timedelta(hours=12)  # of a process for another that computes longer
SECONDS_PER_PART = 30.0  # of work that a kill may cost

logger = logging.getLogger(__name__)

Results = dict[int, Any]  # of units


@dataclass(frozen=True)
class Task:
    """Work that is cut into units. Any process can do any of them, and gets the same result.

    Attributes:
        name: of the folder of its parts.
        what: what is done, for people.
        unit: what `sizes` counts, such as `token`.
        sizes: of the units.
        fingerprint: all that the results depend on, besides what all tasks of `ResumableWork` depend on; JSON.
        prepare: loads what `compute` needs. Not called if no unit is left.
        compute: the result of a unit, in JSON's types, and the number of tokens that were computed or written for it.
        together: whether all processes must compute the same number of units, because they compute a unit together.
    """

    name: str
    what: str
    unit: str
    sizes: list[int]
    fingerprint: Any
    prepare: Callable[[], object]
    compute: Callable[[int], tuple[Any, int]]
    together: bool = False


class ResumableWork:
    """The results of finished units, in a folder that outlives the process.

    A part is a file with the results of some units and the digest of all that they depend on. It appears when it is
    whole. Parts with another digest are deleted.
    """

    def __init__(self, folder: Path | None, fingerprint: Any) -> None:
        """Args: `folder` None writes nothing; `fingerprint` is what all tasks depend on, in JSON's types."""
        self.folder, self.fingerprint = folder, fingerprint
        # Seconds of this start: of all preparations, and of each task.
        self.loading_seconds = 0.0
        self.seconds: dict[str, float] = {}

    def results(self, task: Task) -> list[Any]:
        """The results of all units of a task, on every process; those without a part are computed, shared out.

        Raises:
            PersonaError: another process ended.
        """
        digest, done = self._begin(task)
        missing = [n for n in range(len(task.sizes)) if n not in done]
        started = time.monotonic()
        if missing:
            task.prepare()
        loaded = time.monotonic()
        self.loading_seconds += loaded - started
        pace = Pace(task, missing)
        mine = self._compute(task, missing[dist.get_rank() :: dist.get_world_size()], digest, pace)
        rest = len(missing) % dist.get_world_size()
        has_one_less = 0 < rest <= dist.get_rank()
        if task.together and has_one_less:
            task.compute(missing[0])  # for those that have one more; the result is theirs
        gathered = _from_all_processes((mine, pace.tokens), task)
        pace.finish(sum(tokens for _, tokens in gathered))
        for computed, _ in gathered:
            done.update(computed)
        self.seconds[task.name] = time.monotonic() - loaded
        return [done[n] for n in range(len(task.sizes))]

    def _begin(self, task: Task) -> tuple[str, Results]:
        """The digest of a task and the results in its parts, which one process reads for all."""
        found: list[Any] = [None]
        if dist.get_rank() == 0:
            digest = _digest([self.fingerprint, task.fingerprint])
            found = [(digest, self._read(task, digest))]
        dist.broadcast_object_list(found, src=0)
        digest, done = found[0]
        return digest, done

    def _compute(self, task: Task, units: list[int], digest: str, pace: Pace) -> Results:
        computed: Results = {}
        part: Results = {}
        begun = time.monotonic()
        for unit in units:
            part[unit], tokens = task.compute(unit)
            pace.update(task.sizes[unit], tokens)
            if unit == units[-1] or time.monotonic() - begun >= SECONDS_PER_PART:
                self._write(task, digest, part)
                pace.log()
                computed.update(part)
                part, begun = {}, time.monotonic()
        return computed

    def _write(self, task: Task, digest: str, part: Results) -> None:
        if self.folder is None:
            return
        # No other part begins with this unit, also none of an earlier start.
        with atomic_path(self.folder / task.name / f"{min(part)}.json") as temporary:
            temporary.write_text(json.dumps({"digest": digest, "results": part}), encoding="utf-8")

    def _read(self, task: Task, digest: str) -> Results:
        if self.folder is None:
            return {}
        done: Results = {}
        others = 0
        for file in (self.folder / task.name).glob("[0-9]*.json"):
            part = _read_part(file)
            if part.get("digest") == digest:
                done.update({int(unit): result for unit, result in part["results"].items()})
            else:
                file.unlink()
                others += 1
        if others:
            logger.info("%s: deleted %d parts of another model, other texts, settings or code", task.what, others)
        return done


class Pace:
    """How far a task is. The first process shows its own share on the terminal, and logs it."""

    def __init__(self, task: Task, missing: list[int]) -> None:
        rank, world = dist.get_rank(), dist.get_world_size()
        self.what, self.unit, self.is_first = task.what, f"{task.unit}s", rank == 0
        self.total = sum(task.sizes[n] for n in missing[rank::world])
        self.done = self.tokens = 0
        self.started = time.monotonic()
        self.bar = progress_bar(self.total, 0, self.what, task.unit, is_shown=self.is_first)
        size, missing_size = sum(task.sizes), sum(task.sizes[n] for n in missing)
        self._log(f"{size:,} {self.unit}, of which {size - missing_size:,} are done already; processes: {world}")

    def update(self, size: int, tokens: int) -> None:
        """Note that a unit of this process is done."""
        self.done += size
        self.tokens += tokens
        self.bar.update(size)

    def log(self) -> None:
        """Log how far this process is."""
        seconds = time.monotonic() - self.started
        left = seconds / self.done * (self.total - self.done)
        self._log(
            f"first process: {self.done:,} of {self.total:,} {self.unit}, {seconds:.1f} s, "
            f"{self.tokens / seconds:,.0f} tokens/s, {clock(left)} left"
        )

    def finish(self, tokens: int) -> None:
        """Log what all processes did."""
        self.bar.close()
        if self.total:
            seconds = time.monotonic() - self.started
            self._log(f"done in {seconds:.1f} s, {tokens:,} tokens, {tokens / seconds:,.0f} tokens/s")

    def _log(self, text: str) -> None:
        if self.is_first:
            logger.info("%s: %s", self.what, text)


@lru_cache(maxsize=1)
def _on_hosts(world: Any) -> Any:
    """A group of all processes that communicates by the hosts: one of NCCL would occupy the GPUs of those that wait.

    Args:
        world: the present process group, of which another may follow in the same process.
    """
    return dist.new_group(backend="gloo", timeout=LONGEST_WAIT)


def _from_all_processes(value: Any, task: Task) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(values, value, group=_on_hosts(dist.group.WORLD))
    except RuntimeError as error:
        raise PersonaError(f"{task.what}: {LOST}; start again to go on") from error
    return values


def _read_part(file: Path) -> dict[str, Any]:
    """What is in a part; nothing if a failing disk damaged it."""
    with suppress(ValueError):
        part: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return part
    return {}


def _digest(fingerprint: Any) -> str:
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
