"""What the model writes for some targets, and how many stars it expects the user to give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import torch

from persona import artefacts
from persona.errors import PersonaError
from persona.hashing import hash64_series, mix64
from persona.tokenization import chat_frame, encode

STARS = ["1", "2", "3", "4", "5"]
BATCH = 16


@dataclass(frozen=True)
class GenerationSettings:
    """How many targets, and how their reviews are sampled."""

    n_targets: int
    max_new_tokens: int
    temperature: float
    seed: int


def choose_targets(tokens: pl.DataFrame, n_targets: int, seed: int) -> pl.DataFrame:
    """The targets of smallest priority: the same ones for every model."""
    # Another hash than the one that sampled the targets, which favours those of users with many.
    keys = hash64_series("generation " + tokens["interaction_id"].cast(pl.String))
    priority = mix64(keys, seed)
    return tokens.with_columns(priority=pl.Series(priority)).sort("priority").head(n_targets).drop("priority")


def generate_reviews(model: Any, tokenizer: Any, tokens: pl.DataFrame, settings: GenerationSettings) -> pl.DataFrame:
    """Sample one review a target; return `interaction_id`, `text` and `stop_reason` (`end` or `length`)."""
    torch.manual_seed(settings.seed)
    end = int(tokenizer.convert_tokens_to_ids(chat_frame(tokenizer).end))
    prompts = [row["input_ids"][: row["prompt_length"]] for row in tokens.iter_rows(named=True)]
    written: list[list[int]] = []
    for start in range(0, len(prompts), BATCH):
        written += _sample(model, prompts[start : start + BATCH], end, settings)
    ended = [end in ids for ids in written]
    texts = [ids[: ids.index(end)] if stop else ids for ids, stop in zip(written, ended, strict=True)]
    return pl.DataFrame(
        {
            "interaction_id": tokens["interaction_id"],
            "text": [tokenizer.decode(ids, skip_special_tokens=True) for ids in texts],
            "stop_reason": ["end" if stop else "length" for stop in ended],
        },
        schema_overrides={"text": pl.String, "stop_reason": pl.String},
    )


def _sample(model: Any, prompts: list[list[int]], end: int, settings: GenerationSettings) -> list[list[int]]:
    width = max(map(len, prompts))
    # Padded on the left, so that every prompt ends where its review begins.
    ids = torch.tensor([[end] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=settings.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=end,
            pad_token_id=end,
        )
    reviews: list[list[int]] = output[:, width:].tolist()
    return reviews


def rating_probabilities(model: Any, tokenizer: Any, tokens: pl.DataFrame, cue: str, rating_cue: str) -> pl.DataFrame:
    """Probabilities of the five stars as the answer to the same prompt with another last line.

    The model was not trained on that question, so this is a zero-shot probe. What the five leave of 1 is
    probability that leaked to other answers.

    Returns:
        `interaction_id`, `rating_probabilities` `[5]` (as the model gives them) and `rating`, the mean star under
        them once they are made to add up to 1.
    """
    stars = [ids[0] for ids in encode(tokenizer, STARS, special=False)]
    probabilities, means = [], []
    for row in tokens.iter_rows(named=True):
        ids = _ask_rating(tokenizer, row["input_ids"][: row["prompt_length"]], cue, rating_cue)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
        p = torch.softmax(logits.double(), dim=0)[stars].tolist()
        mean = sum(star * value for star, value in enumerate(p, start=1)) / sum(p)
        probabilities.append(p)
        means.append(mean)
    return tokens.select("interaction_id").with_columns(
        rating_probabilities=pl.Series(probabilities, dtype=pl.List(pl.Float64)),
        rating=pl.Series(means, dtype=pl.Float64),
    )


def _ask_rating(tokenizer: Any, prompt: list[int], cue: str, rating_cue: str) -> list[int]:
    """A tokenized prompt with its last line replaced."""
    between = encode(tokenizer, [chat_frame(tokenizer).between], special=True)[0]
    old, new = encode(tokenizer, [cue, rating_cue], special=False)
    if prompt[-len(between) - len(old) :] != old + between:
        raise PersonaError(f"the prompts do not end with the cue {cue!r}; end the prompt style with a {{cue}} line")
    return prompt[: -len(between) - len(old)] + new + between


def generations(
    model: Any,
    tokenizer: Any,
    tokens: pl.DataFrame,
    prompts: pl.DataFrame,
    cue: str,
    rating_cue: str,
    settings: GenerationSettings,
) -> pl.DataFrame:
    """The columns of `artefacts.GENERATIONS` for some targets of a cohort."""
    chosen = choose_targets(tokens, settings.n_targets, settings.seed)
    written = generate_reviews(model, tokenizer, chosen, settings)
    stars = rating_probabilities(model, tokenizer, chosen, cue, rating_cue)
    return (
        written.join(stars, on="interaction_id")
        .join(prompts.select("interaction_id", "user_id", "item_id"), on="interaction_id")
        .select(list(artefacts.GENERATIONS.columns))
    )


def rating_metrics(generated: pl.DataFrame, prompts: pl.DataFrame) -> dict[str, float | int]:
    """Error of the expected star, beside that of always saying the mean star of the same targets."""
    both = generated.join(prompts.select("interaction_id", truth="rating"), on="interaction_id").drop_nulls("truth")
    truth, guess = both["truth"].to_numpy(), both["rating"].to_numpy()
    leaked = 1 - both["rating_probabilities"].list.sum().to_numpy()
    return {
        "targets": both.height,
        "rmse": float(((guess - truth) ** 2).mean() ** 0.5),
        "rmse_of_the_mean": float(truth.std()),
        "leaked_probability": float(leaked.mean()),
    }
