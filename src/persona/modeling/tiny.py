"""A tiny model with the architecture of the real one: Qwen3-MoE, randomly initialised, with its own tokenizer.

It is an ordinary Hugging Face folder, so every later step treats it like the 30B model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from persona.errors import PersonaError
from persona.files import follow_umask

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Qwen's pre-tokenizer: letters, single digits, punctuation with its line breaks, line breaks, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
MAX_PARAMETERS = 3_000_000


def train_tokenizer(texts: list[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer with Qwen's pre-tokenizer, special tokens and chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (END_OF_TEXT, START_OF_TURN, END_OF_TURN)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return as_chat_tokenizer(tokenizer)


def as_chat_tokenizer(tokenizer: Any) -> Any:
    """Wrap a `tokenizers` tokenizer with Qwen's special tokens as a Hugging Face one with a chat template."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TURN, pad_token=END_OF_TEXT)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def moe_config(tokenizer: Any, hidden_size: int, num_hidden_layers: int, num_experts: int) -> Any:
    """The configuration of a Qwen3-MoE of this size for a tokenizer."""
    from transformers import Qwen3MoeConfig

    head_dim = 32
    return Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=hidden_size // head_dim,
        num_key_value_heads=max(1, hidden_size // head_dim // 2),
        head_dim=head_dim,
        intermediate_size=2 * hidden_size,
        moe_intermediate_size=hidden_size // 2,
        num_experts=num_experts,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def write_tiny_model(
    texts: list[str],
    folder: Path,
    vocab_size: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_experts: int,
    seed: int,
) -> int:
    """Write tokenizer and model into `folder`; return the number of parameters.

    Raises:
        PersonaError: the sizes give more than `MAX_PARAMETERS`; that model would not be tiny.
    """
    import torch
    from transformers import Qwen3MoeForCausalLM

    tokenizer = train_tokenizer(texts, vocab_size)
    config = moe_config(tokenizer, hidden_size, num_hidden_layers, num_experts)
    torch.manual_seed(seed)
    model = Qwen3MoeForCausalLM(config)
    n_parameters: int = sum(parameter.numel() for parameter in model.parameters())
    if n_parameters > MAX_PARAMETERS:
        raise PersonaError(f"the tiny model would have {n_parameters:,} parameters, more than {MAX_PARAMETERS:,}")
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    follow_umask(folder)
    return n_parameters
