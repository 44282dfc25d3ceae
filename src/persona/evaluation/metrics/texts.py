"""Compare generated texts with real ones: overlap, style, variety, copying. All scores lie between 0 and 1.

Overlap says little about personalisation, because texts on one item have much in common. So `summary.py` reports it
between a floor (another user's text on the same item) and a ceiling (another text of the same user).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import regex
from rapidfuzz.distance import Indel
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from scipy.spatial.distance import jensenshannon

from persona.evaluation.metrics.intervals import Ints

UInt64s = npt.NDArray[np.uint64]

# The most frequent function words of Mandarin: they carry grammar, not content.
FUNCTION_CHARACTERS = "的了是我不在有就也都和很还这那你他她们吧吗呢啊呀么着过到得地又被把给与但却而"
EMOJI = regex.compile(r"\p{Extended_Pictographic}")
PUNCTUATION = regex.compile(r"\p{P}|[~～]")
SELF_BLEU_TEXTS = 50
CORPUS_TEXTS = 200_000  # texts of the corpus that are searched at once; limits memory
COPY_LENGTHS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)


def chrf(text: str, reference: str) -> float:
    """Character n-gram F-score, n = 1..6, beta 2 (Popović, WMT 2015), by sacrebleu."""
    return float(_chrf().sentence_score(text, [reference]).score / 100) if text and reference else 0.0


def bleu_zh(text: str, reference: str) -> float:
    """BLEU over Chinese characters (Papineni et al., ACL 2002), by sacrebleu, with the effective order.

    Without the effective order, a text of fewer than four characters would score 0 against itself. A run of emoji is
    one token.
    """
    return float(min(1.0, _bleu().sentence_score(text, [reference]).score / 100)) if text and reference else 0.0


def are_chinese(texts: list[str]) -> bool:
    """Whether most letters of the texts are Chinese characters. BLEU over Chinese characters says nothing of others."""
    letters = [character for text in texts for character in text if character.isalpha()]
    return sum("\u4e00" <= letter <= "\u9fff" for letter in letters) > len(letters) / 2


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence (LCS) of characters, ignoring whitespace (Lin, ACL workshop 2004).

    With P = LCS / |text| and R = LCS / |reference|, 2 PR / (P + R) = 2 LCS / (|text| + |reference|). That is the
    normalised similarity under insertions and deletions.
    """
    a, b = "".join(text.split()), "".join(reference.split())
    return float(Indel.normalized_similarity(a, b)) if a and b else 0.0


@cache
def _chrf() -> CHRF:
    return CHRF()


@cache
def _bleu() -> BLEU:
    return BLEU(tokenize="zh", effective_order=True)


def style_counts(texts: list[str]) -> Counter[str]:
    """Count each punctuation mark, each function character, all emoji together, and all other characters together."""
    counts: Counter[str] = Counter()
    for text in texts:
        for character in text:
            if character in FUNCTION_CHARACTERS or PUNCTUATION.match(character):
                counts[character] += 1
            elif EMOJI.match(character):
                counts["emoji"] += 1
            elif not character.isspace():
                counts["other"] += 1
    return counts


def style_distance(texts: list[str], references: list[str]) -> float:
    """Jensen-Shannon divergence of `style_counts` in bits (Lin, IEEE Trans. Inf. Theory 1991): 0 same, 1 disjoint."""
    counts = [style_counts(texts), style_counts(references)]
    if not all(counts):
        return float(counts[0] != counts[1])
    names = sorted(set(counts[0]) | set(counts[1]))
    p, q = ([c[name] for name in names] for c in counts)
    # The distance is the root of the divergence. Rounding can make the divergence of almost equal counts negative,
    # and its root NaN.
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(jensenshannon(p, q, base=2)) ** 2)


def log_length_difference(text: str, reference: str) -> float:
    """|ln((1 + characters of text) / (1 + characters of reference))|."""
    return float(abs(np.log1p(len(text)) - np.log1p(len(reference))))


def distinct(texts: list[str], n: int) -> float:
    """Share of distinct n-grams among all character n-grams (Li et al., NAACL 2016); 0 if there are none."""
    grams = [text[i : i + n] for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: list[str]) -> float:
    """Mean BLEU of each of the first fifty texts against the others (Zhu et al., SIGIR 2018); 1: all are the same."""
    subset = [text for text in texts[:SELF_BLEU_TEXTS] if text]
    if len(subset) < 2:
        return 0.0
    scores = [_bleu().sentence_score(text, subset[:n] + subset[n + 1 :]).score for n, text in enumerate(subset)]
    return min(1.0, float(np.mean(scores)) / 100)


class Corpus:
    """A collection of texts in which the longest substrings of other texts are searched."""

    def __init__(self, texts: list[str]) -> None:
        self.parts = [texts[start : start + CORPUS_TEXTS] for start in range(0, len(texts), CORPUS_TEXTS)]
        self.whole = set(texts)

    def longest(self, texts: list[str]) -> Ints:
        """Characters of the longest substring of each text that occurs in a text of the corpus."""
        longest = np.zeros(len(texts), dtype=np.int64)
        for part in self.parts:
            longest = np.maximum(longest, _longest(texts, _codes(part)))
        return longest


def _longest(texts: list[str], corpus: UInt64s) -> Ints:
    """Extend all substrings by one character at a time, and keep those that occur on both sides.

    After a few characters few substrings are left, however large the corpus is.
    """
    longest = np.zeros(len(texts), dtype=np.int64)
    codes = _codes(texts or [""])
    text_of_start = np.cumsum(codes == 0)
    in_texts, in_corpus = _Substrings.empty(codes), _Substrings.empty(corpus)
    length = 0
    while in_texts.starts.size:
        in_texts, in_corpus = in_texts.longer(length), in_corpus.longer(length)
        keep_texts, keep_corpus = _shared(in_texts.hashes, in_corpus.hashes)
        in_texts, in_corpus = in_texts.kept(keep_texts), in_corpus.kept(keep_corpus)
        length += 1
        longest[text_of_start[in_texts.starts]] = length
    return longest


@dataclass(frozen=True)
class _Substrings:
    """Substrings of one length: the characters of all texts, where each substring starts, and its hash."""

    codes: UInt64s
    starts: Ints
    hashes: UInt64s

    @classmethod
    def empty(cls, codes: UInt64s) -> _Substrings:
        """One substring of length 0 at each character."""
        return cls(codes, np.arange(codes.size), np.zeros(codes.size, dtype=np.uint64))

    def longer(self, length: int) -> _Substrings:
        """The substrings of `length` characters extended by the next one, without those at the end of their text."""
        inside = self.starts + length < self.codes.size
        starts, hashes = self.starts[inside], self.hashes[inside]
        following = self.codes[starts + length]
        with np.errstate(over="ignore"):
            mixed = (hashes + following) * np.uint64(0x9E3779B97F4A7C15)
        return _Substrings(self.codes, starts, mixed ^ (mixed >> np.uint64(29))).kept(following != 0)

    def kept(self, which: npt.NDArray[np.bool_]) -> _Substrings:
        return _Substrings(self.codes, self.starts[which], self.hashes[which])


def _shared(few: UInt64s, many: UInt64s) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which of `few` are in `many`, and which of `many` are in `few`. Unlike `numpy.isin`, it does not sort `many`."""
    wanted, back = np.unique(few, return_inverse=True)
    if not wanted.size:
        return np.zeros(few.size, dtype=bool), np.zeros(many.size, dtype=bool)
    index = np.minimum(np.searchsorted(wanted, many), wanted.size - 1)
    shared = wanted[index] == many
    occurs = np.zeros(wanted.size, dtype=bool)
    occurs[index[shared]] = True
    return occurs[back], shared


def _codes(texts: list[str]) -> UInt64s:
    """The characters of all texts, each text followed by a 0 (one inside a text becomes U+FFFD)."""
    joined = "".join(text.replace("\0", "\ufffd") + "\0" for text in texts)
    return np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)


def copy_curve(longest: Ints) -> dict[int, float]:
    """For each n of `COPY_LENGTHS`, the share of texts with n characters in a row from the corpus.

    Args:
        longest: from `Corpus.longest`.
    """
    return {n: float((longest >= n).mean()) if longest.size else 0.0 for n in COPY_LENGTHS}


def prompt_copies(texts: list[str], prompts: list[str]) -> list[int]:
    """Length in characters of the longest substring that each text shares with its own prompt."""
    return [int(Corpus([prompt]).longest([text])[0]) for text, prompt in zip(texts, prompts, strict=True)]
