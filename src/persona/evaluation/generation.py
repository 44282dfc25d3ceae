"""What the model writes for some targets: its greedy review, and sampled ones."""

from __future__ import annotations

import re
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import torch.distributed as dist
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from persona.evaluation.model import EvaluatedModel
from persona.evaluation.resumable import ResumableWork, Task
from persona.evaluation.settings import GREEDY, SAMPLE, GenerationSettings, n_batches
from persona.evaluation.vllm_backend import Requests, write_with_vllm
from persona.seeded_hash import UInt64Array, hash64_series, mix64, uniform
from persona.tables import schemas
from persona.tokenization.chat import chat_frame

Review = tuple[int, str, int]  # target, method, draw
# The same, the text, the stars before it, why it ended, and what wrote it.
Row = list[int | str | float | None]
STAR_LINE = re.compile(r"-?\d+(?:\.\d+)?\n")


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Sampling by given random numbers, so that a review does not depend on its batch or process.

    Leaves one token a row: that at which the cumulative probability passes the row's number of this step. A row
    of NaN numbers is left as it is, for greedy decoding.
    """

    def __init__(self, numbers: npt.NDArray[np.float64], temperature: float, prompt_width: int) -> None:
        """`numbers` `[rows, steps]` in [0, 1)."""
        self.numbers, self.temperature, self.prompt_width = torch.from_numpy(numbers), temperature, prompt_width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `[rows, vocabulary]` with all but the drawn token of each row at minus infinity."""
        drawn = self.numbers[:, input_ids.shape[1] - self.prompt_width].to(scores.device)
        cumulative = torch.softmax(scores.double() / self.temperature, dim=-1).cumsum(-1)
        # Scaled, because the last one is 1 only up to rounding.
        chosen = torch.searchsorted(cumulative, (drawn.nan_to_num() * cumulative[:, -1])[:, None], right=True)
        chosen = chosen.clamp(max=scores.shape[-1] - 1)
        only = torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
        return torch.where(drawn.isnan()[:, None], scores, only)


def generate_reviews(
    model: EvaluatedModel,
    tokens: pl.DataFrame,
    settings: GenerationSettings,
    work: ResumableWork,
    n_star_tokens: int = 0,
) -> pl.DataFrame:
    """Write the greedy review and the sampled ones of every target, shared out over the processes.

    With the backend vLLM, which divides its own work, one process starts it once for all of them.

    Args:
        tokens: the targets, with `interaction_id`, `input_ids` and `prompt_length`.
        work: where finished batches are kept until all is done.
        n_star_tokens: tokens that a line of stars before the text may have; 0 for a model that writes none.

    Returns:
        `interaction_id`, `method` (`greedy` or `sample`), `draw`, `text`, `written_rating` (null if the model wrote no
        stars before the text), `stop_reason` (`end` or `length`) and `written_by`, on every process.
    """
    prompts = {row["interaction_id"]: row["input_ids"][: row["prompt_length"]] for row in tokens.iter_rows(named=True)}
    batches = _batches(prompts, settings.n_samples)
    uses_vllm = settings.backend == "vllm"
    if uses_vllm:
        batches = [[review for batch in batches for review in batch]]
        model.unload()

    task = Task(
        name="reviews",
        what="writing reviews",
        unit="text",
        sizes=[len(batch) for batch in batches],
        fingerprint=[batches, list(prompts.values()), settings.model_dump(), n_star_tokens],
        prepare=(lambda: None) if uses_vllm else lambda: model.loss,
        compute=lambda n: _write(model, batches[n], prompts, settings, n_star_tokens),
        together=model.expert_parallel > 1 and not uses_vllm,
    )
    rows = [row for batch in work.results(task) for row in batch]
    names = ["interaction_id", "method", "draw", "text", "written_rating", "stop_reason", "written_by"]
    return pl.DataFrame(rows, schema={name: schemas.GENERATIONS.columns[name] for name in names}, orient="row")


def _batches(prompts: dict[int, list[int]], n_samples: int) -> list[list[Review]]:
    reviews = [(target, GREEDY, 0) for target in prompts]
    reviews += [(target, SAMPLE, draw) for target in prompts for draw in range(n_samples)]
    # Alike in length, so that little is padded.
    reviews.sort(key=lambda review: (len(prompts[review[0]]), review))
    n = n_batches(len(reviews))
    ends = [len(reviews) * batch // max(n, 1) for batch in range(n + 1)]
    return [reviews[start:end] for start, end in pairwise(ends)]


def _write(
    model: EvaluatedModel,
    batch: list[Review],
    prompts: dict[int, list[int]],
    settings: GenerationSettings,
    n_star_tokens: int,
) -> tuple[list[Row], int]:
    """The rows of a batch of reviews, and how many tokens were written."""
    tokenizer = model.tokenizer
    end = int(tokenizer.convert_tokens_to_ids(chat_frame(tokenizer).end))
    if settings.backend == "vllm":
        written, written_by = _generate_with_vllm(model, batch, prompts, end, settings, n_star_tokens)
    else:
        numbers = _numbers(batch, settings, settings.max_new_tokens + n_star_tokens)
        asked = [prompts[target] for target, _, _ in batch]
        written = _generate(model.loss.model, asked, numbers, end, settings, together=model.expert_parallel > 1)
        written_by = f"transformers {version('transformers')}"
    rows: list[Row] = []
    n_tokens = 0
    for review, ids in zip(batch, written, strict=True):
        ended = end in ids
        kept = ids[: ids.index(end)] if ended else ids
        n_tokens += len(kept) + ended
        rating, text = split_stars(tokenizer, kept, n_star_tokens)
        # The end is a token of the text as well.
        whole = ended and len(text) < settings.max_new_tokens
        text = tokenizer.decode(text[: settings.max_new_tokens], skip_special_tokens=True)
        rows.append([*review, text, rating, "end" if whole else "length", written_by])
    return rows, n_tokens


def _generate_with_vllm(
    model: EvaluatedModel,
    batch: list[Review],
    prompts: dict[int, list[int]],
    end: int,
    settings: GenerationSettings,
    n_star_tokens: int,
) -> tuple[list[list[int]], str]:
    """The tokens of each review, and what wrote them. Sampled ones have seeds from target and draw."""
    asked = list(dict.fromkeys(target for target, _, _ in batch))
    number = {target: n for n, target in enumerate(asked)}
    seeds = (mix64(_keys(batch), settings.seed) >> np.uint64(33)).tolist()
    texts = [
        (number[target], None if method == GREEDY else seed)
        for (target, method, _), seed in zip(batch, seeds, strict=True)
    ]
    # Of a folder there is no revision.
    path, _, revision = (model.path, "", "") if Path(model.path).is_dir() else model.path.partition("@")
    requests = Requests(
        model=path,
        revision=revision or None,
        dtype=str(model.dtype).removeprefix("torch."),
        prompts=[prompts[target] for target in asked],
        texts=texts,
        temperature=settings.temperature,
        max_tokens=settings.max_new_tokens + n_star_tokens,
        end=end,
        processes=dist.get_world_size() if torch.cuda.is_available() else 1,
    )
    return write_with_vllm(settings.vllm_python, requests)


def split_stars(tokenizer: Any, ids: list[int], n_star_tokens: int) -> tuple[float | None, list[int]]:
    """What is in the line of the stars, and the tokens of the text after it; None and all tokens without such a line.

    Args:
        n_star_tokens: tokens that the line may have.
    """
    for n in range(1, n_star_tokens + 1):
        line = tokenizer.decode(ids[:n])
        if STAR_LINE.fullmatch(line):
            return float(line), ids[n:]
    return None, ids


def _keys(batch: list[Review]) -> UInt64Array:
    return hash64_series(pl.Series([f"{target} {draw}" for target, _, draw in batch]))


def _numbers(batch: list[Review], settings: GenerationSettings, n_steps: int) -> npt.NDArray[np.float64]:
    """Random numbers `[rows, steps]` from target, draw and step; NaN for greedy rows."""
    keys = _keys(batch)
    steps = np.arange(n_steps, dtype=np.uint64)
    numbers = uniform(mix64(keys, settings.seed)[:, None] + steps, settings.seed)
    numbers[[method == GREEDY for _, method, _ in batch]] = np.nan
    return numbers


def _generate(
    model: Any,
    prompts: list[list[int]],
    numbers: npt.NDArray[np.float64],
    end: int,
    settings: GenerationSettings,
    together: bool,
) -> list[list[int]]:
    width = max(map(len, prompts))
    # Padded on the left, so that every prompt ends where its review begins.
    ids = torch.tensor([[end] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    # Not the model's own configuration, which may ask for other ways of sampling.
    plain = GenerationConfig(do_sample=False, max_new_tokens=numbers.shape[1], eos_token_id=end, pad_token_id=end)
    processors = LogitsProcessorList([SeededSampling(numbers, settings.temperature, width)])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=plain,
            logits_processor=processors,
            synced_gpus=together,  # all processes go on until the last text is written
        )
    reviews: list[list[int]] = output[:, width:].tolist()
    return reviews
