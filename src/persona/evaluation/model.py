"""The model that is evaluated, loaded only if something is left to compute with it."""

from __future__ import annotations

import gc
import logging
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from persona.files import MODEL_CARD
from persona.modeling.attention import BY_PREFIX
from persona.modeling.expert_parallel import load_with_spread_experts
from persona.modeling.loading import check_weights, default_device, dtype_on, load_model
from persona.modeling.loss import CompletionLoss
from persona.tokenization.chat import load_tokenizer

logger = logging.getLogger(__name__)


class EvaluatedModel:
    """A model by its path. Its weights are loaded when they are first needed, and its tokenizer as well.

    Attributes:
        is_trained: whether it was trained on completions like those it is evaluated on. A base model was not.
        expert_parallel: processes over which its experts are spread. With more than one, all processes must make each
            forward pass together.
    """

    def __init__(
        self, path: str, is_trained: bool = True, cpu_dtype: str = "float32", expert_parallel: int = 1
    ) -> None:
        self.path, self.is_trained, self.cpu_dtype = path, is_trained, cpu_dtype
        self.expert_parallel = expert_parallel

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""
        return dtype_on(default_device(), self.cpu_dtype)

    @cached_property
    def loss(self) -> CompletionLoss:
        """The model with the likelihoods of texts."""
        if dist.get_rank() == 0:
            logger.info("loading %s", self.path)
        if self.expert_parallel > 1:
            check_weights(self.path)
            model, _ = load_with_spread_experts(self.path, self.dtype, BY_PREFIX, self.expert_parallel)
        else:
            model = load_model(self.path, self.dtype, default_device())
        return CompletionLoss(model.eval())

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return "loss" in vars(self)

    def unload(self) -> None:
        """Free the memory of the weights; they are loaded again when they are needed."""
        if vars(self).pop("loss", None) is not None:
            gc.collect()  # modules of spread experts refer to themselves
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return load_tokenizer(self.path)

    def fingerprint(self) -> dict[str, Any]:
        """What the model's results depend on: its files, the packages and the device.

        Files are known by size and time of change: to hash a large model takes as long as to load it. A model from the
        hub is known by its name alone.
        """
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        packages = {name: version(name) for name in ("torch", "transformers")}
        folder = Path(self.path)
        files = []
        for file in sorted(folder.rglob("*")) if folder.is_dir() else []:
            name = file.relative_to(folder)
            # A download leaves a hidden folder with dates.
            if file.is_file() and not any(part.startswith(".") for part in name.parts) and name != Path(MODEL_CARD):
                files.append([str(name), file.stat().st_size, file.stat().st_mtime_ns])
        return {"files": files or self.path, "packages": packages, "device": device, "dtype": str(self.dtype)}
