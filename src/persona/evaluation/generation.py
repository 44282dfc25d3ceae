"""What the model writes for some targets: its likeliest review, and sampled ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import torch.distributed as dist
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from persona.evaluation.settings import BATCH, GREEDY, SAMPLE, GenerationSettings
from persona.progress import progress_bar
from persona.seeded_hash import hash64_series, mix64, uniform
from persona.tables import schemas
from persona.tokenization.chat import chat_frame


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


def generate_reviews(model: Any, tokenizer: Any, tokens: pl.DataFrame, settings: GenerationSettings) -> pl.DataFrame:
    """Write the greedy review and the sampled ones of every target, shared out over the processes.

    Returns:
        `interaction_id`, `method` (`greedy` or `sample`), `draw`, `text` and `stop_reason` (`end` or `length`), on
        every process.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    prompts = {row["interaction_id"]: row["input_ids"][: row["prompt_length"]] for row in tokens.iter_rows(named=True)}
    work = [(target, GREEDY, 0) for target in prompts]
    work += [(target, SAMPLE, draw) for target in prompts for draw in range(settings.n_samples)]
    # Alike in length, so that little is padded.
    work.sort(key=lambda task: (len(prompts[task[0]]), task))
    batches = [work[start : start + BATCH] for start in range(0, len(work), BATCH)][rank::world]
    end = int(tokenizer.convert_tokens_to_ids(chat_frame(tokenizer).end))
    bar = progress_bar(len(batches), 0, "writing reviews", "batch", is_shown=rank == 0)
    rows: list[tuple[int, str, int, str, str]] = []
    for batch in batches:
        written = _write(model, [prompts[task[0]] for task in batch], _numbers(batch, settings), end, settings)
        for task, ids in zip(batch, written, strict=True):
            ended = end in ids
            text = tokenizer.decode(ids[: ids.index(end)] if ended else ids, skip_special_tokens=True)
            rows.append((*task, text, "end" if ended else "length"))
        bar.update()
    bar.close()
    gathered: list[Any] = [None] * world
    dist.all_gather_object(gathered, rows)
    names = ["interaction_id", "method", "draw", "text", "stop_reason"]
    schema = {name: schemas.GENERATIONS.columns[name] for name in names}
    return pl.DataFrame([row for part in gathered for row in part], schema=schema, orient="row")


def _numbers(batch: list[tuple[int, str, int]], settings: GenerationSettings) -> npt.NDArray[np.float64]:
    """Random numbers `[rows, steps]` from target, draw and step; NaN for greedy rows."""
    keys = hash64_series(pl.Series([f"{target} {draw}" for target, _, draw in batch]))
    steps = np.arange(settings.max_new_tokens, dtype=np.uint64)
    numbers = uniform(mix64(keys, settings.seed)[:, None] + steps, settings.seed)
    numbers[[method == GREEDY for _, method, _ in batch]] = np.nan
    return numbers


def _write(
    model: Any, prompts: list[list[int]], numbers: npt.NDArray[np.float64], end: int, settings: GenerationSettings
) -> list[list[int]]:
    width = max(map(len, prompts))
    # Padded on the left, so that every prompt ends where its review begins.
    ids = torch.tensor([[end] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    # Not the model's own configuration, which may ask for other ways of sampling.
    plain = GenerationConfig(
        do_sample=False, max_new_tokens=settings.max_new_tokens, eos_token_id=end, pad_token_id=end
    )
    processors = LogitsProcessorList([SeededSampling(numbers, settings.temperature, width)])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=plain, logits_processor=processors
        )
    reviews: list[list[int]] = output[:, width:].tolist()
    return reviews
