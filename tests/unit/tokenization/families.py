"""Small trained tokenizers with the structure of published families, with a chat template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.corpus import gpt2_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from persona.modeling.tiny import END_OF_TEXT, END_OF_TURN, START_OF_TURN, as_chat_tokenizer

SPECIAL = [AddedToken(token, special=True, normalized=False) for token in (END_OF_TEXT, START_OF_TURN, END_OF_TURN)]
BYTES = [f"<0x{n:02X}>" for n in range(256)]


def _trained(tokenizer: Tokenizer, trainer: Any, texts: list[str]) -> Any:
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    return as_chat_tokenizer(tokenizer)


def byte_level(texts: list[str]) -> Any:
    """GPT-2 and SmolLM2."""
    return gpt2_tokenizer(texts, 800)


def llama2(texts: list[str]) -> Any:
    """Llama 2 and Mistral: no pre-tokenizer, a space put before each text, bytes for unknown characters.

    Trained on single lines, as SentencePiece is: no token holds a line break.
    """
    tokenizer = _metaspace(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
        [line for text in texts for line in text.splitlines()],
    )
    return tokenizer


def gemma(texts: list[str]) -> Any:
    """Gemma: split at spaces, runs of line breaks are tokens, bytes for unknown characters."""
    lines = [line for text in texts for line in text.splitlines()]
    return _metaspace(
        normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), [*lines, *["\n\n\n\n"] * 9]
    )


def newest_sentencepiece(texts: list[str]) -> Any:
    """Metaspace as a pre-tokenizer that puts a space before the first word alone."""
    lines = [line for text in texts for line in text.splitlines()]
    return _metaspace(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=True), lines)


def across_lines(texts: list[str]) -> Any:
    """Tokens across line breaks, as no published tokenizer has them: nowhere to cut."""
    return _metaspace(normalizers.Replace(" ", "▁"), None, [f"{text}\n1. [{text}]\n\n[HISTORY]" for text in texts])


def gpt4o(texts: list[str]) -> Any:
    """GPT-4o and gpt-oss: punctuation with the line breaks and slashes after it."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    before, contraction = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    words = rf"{before}{upper}*{lower}+{contraction}|{before}{upper}+{lower}*{contraction}"
    pattern = words + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    return _trained(tokenizer, trainer, [f"{text}.\n/{text};\n\n({text})\n" for text in texts])


def _metaspace(normalizer: Any, pre_tokenizer: Any, texts: list[str]) -> Any:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>", *BYTES], max_token_length=16, show_progress=False
    )
    return _trained(tokenizer, trainer, texts)


def word_piece(texts: list[str]) -> Any:
    """BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _trained(
        tokenizer, trainers.WordPieceTrainer(vocab_size=800, special_tokens=["[UNK]"], show_progress=False), texts
    )


FAMILIES: dict[str, Callable[[list[str]], Any]] = {
    "gpt2": byte_level,
    "llama2": llama2,
    "gemma": gemma,
    "metaspace": newest_sentencepiece,
    "wordpiece": word_piece,
    "gpt4o": gpt4o,
    "across_lines": across_lines,
}
