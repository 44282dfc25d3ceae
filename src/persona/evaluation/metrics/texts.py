"""Generated reviews against the real ones: overlap, style, variety, copying. All scores lie in 0..1.

Overlap says little about personalisation: what a film's reviews have in common counts for most of it. So it is
put between a floor (another user's review of the film) and a ceiling (another review of the same user).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import regex
from rapidfuzz.distance import LCSseq
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from persona.evaluation.metrics.bootstrap import Floats, Ints

UInt64s = npt.NDArray[np.uint64]

# Words of grammar rather than of content, the commonest in Mandarin.
FUNCTION_CHARACTERS = "的了是我不在有就也都和很还这那你他她们吧吗呢啊呀么着过到得地又被把给与但却而"
EMOJI = regex.compile(r"\p{Extended_Pictographic}")
PUNCTUATION = regex.compile(r"\p{P}|[~～]")
SELF_BLEU_TEXTS = 50
CORPUS_TEXTS = 200_000  # texts of the corpus that are searched at once
COPY_LENGTHS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)


def chrf(text: str, reference: str) -> float:
    """Character n-gram F-score, n = 1..6, beta 2 (Popović, WMT 2015), by sacrebleu."""
    return float(_chrf().sentence_score(text, [reference]).score / 100) if text and reference else 0.0


def bleu_zh(text: str, reference: str) -> float:
    """BLEU over Chinese characters (Papineni et al., ACL 2002), by sacrebleu, with the effective order.

    Without it a text of under four characters scores 0 against itself. A run of emoji is one token.
    """
    return float(min(1.0, _bleu().sentence_score(text, [reference]).score / 100)) if text and reference else 0.0


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of characters, blanks aside (Lin, ACL workshop 2004).

    2 PR / (P + R) with P = LCS / |text|, R = LCS / |reference|, that is 2 LCS / (|text| + |reference|).
    """
    a, b = "".join(text.split()), "".join(reference.split())
    return 2 * LCSseq.similarity(a, b) / (len(a) + len(b)) if a and b else 0.0


@cache
def _chrf() -> CHRF:
    return CHRF()


@cache
def _bleu() -> BLEU:
    return BLEU(tokenize="zh", effective_order=True)


def style_counts(texts: list[str]) -> Counter[str]:
    """How often each mark, each function character, emoji and everything else occur."""
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
    """Jensen-Shannon divergence in bits of `style_counts` (Lin, IEEE Trans. Inf. Theory 1991): 0 alike, 1 disjoint."""
    counts = [style_counts(texts), style_counts(references)]
    if not all(counts):
        return float(counts[0] != counts[1])
    names = sorted(set(counts[0]) | set(counts[1]))
    p, q = (np.array([c[name] for name in names], dtype=float) / c.total() for c in counts)
    mean = (p + q) / 2
    return float(max(0.0, (_kl(p, mean) + _kl(q, mean)) / 2))


def _kl(p: Floats, q: Floats) -> float:
    some = p > 0
    return float(np.sum(p[some] * np.log2(p[some] / q[some])))


def log_length_difference(text: str, reference: str) -> float:
    """|ln((1 + characters of text) / (1 + characters of reference))|."""
    return float(abs(np.log1p(len(text)) - np.log1p(len(reference))))


def distinct(texts: list[str], n: int) -> float:
    """Distinct character n-grams over all of them (Li et al., NAACL 2016); 0 where there is none."""
    grams = [text[i : i + n] for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: list[str]) -> float:
    """Mean BLEU of each text against the others (Zhu et al., SIGIR 2018); of the first fifty. 1: all the same."""
    some = [text for text in texts[:SELF_BLEU_TEXTS] if text]
    if len(some) < 2:
        return 0.0
    scores = [_bleu().sentence_score(text, some[:n] + some[n + 1 :]).score for n, text in enumerate(some)]
    return min(1.0, float(np.mean(scores)) / 100)


class Corpus:
    """Texts in which the longest common substrings of other texts are looked up, all at once."""

    def __init__(self, texts: list[str]) -> None:
        self.parts = [texts[start : start + CORPUS_TEXTS] for start in range(0, len(texts), CORPUS_TEXTS)]
        self.whole = set(texts)

    def longest(self, texts: list[str]) -> Ints:
        """Characters of the longest substring of each text that occurs in a text of the corpus."""
        found = np.zeros(len(texts), dtype=np.int64)
        for part in self.parts:
            found = np.maximum(found, _longest(texts, _codes(part)))
        return found


def _longest(texts: list[str], corpus: UInt64s) -> Ints:
    """Substrings grow by a character at a time; a place goes on only while its substring occurs on the other side,
    so that after a few characters little is left of a corpus of any size.
    """
    found = np.zeros(len(texts), dtype=np.int64)
    mine = _codes(texts or [""])
    owner = np.cumsum(mine == 0)
    places = _Places(mine, np.arange(mine.size), np.zeros(mine.size, dtype=np.uint64))
    theirs = _Places(corpus, np.arange(corpus.size), np.zeros(corpus.size, dtype=np.uint64))
    length = 0
    while places.starts.size:
        places, theirs = places.longer(length), theirs.longer(length)
        here, there = _shared(places.hashes, theirs.hashes)
        places, theirs = places.kept(here), theirs.kept(there)
        length += 1
        found[owner[places.starts]] = length
    return found


@dataclass(frozen=True)
class _Places:
    """Substrings of one length: where they start, and their hashes."""

    codes: UInt64s
    starts: Ints
    hashes: UInt64s

    def longer(self, length: int) -> _Places:
        """Each by the character after its first `length`; those that reach their text's end are left out."""
        inside = self.starts + length < self.codes.size
        starts, hashes = self.starts[inside], self.hashes[inside]
        following = self.codes[starts + length]
        with np.errstate(over="ignore"):
            mixed = (hashes + following) * np.uint64(0x9E3779B97F4A7C15)
        return _Places(self.codes, starts, mixed ^ (mixed >> np.uint64(29))).kept(following != 0)

    def kept(self, which: npt.NDArray[np.bool_]) -> _Places:
        return _Places(self.codes, self.starts[which], self.hashes[which])


def _shared(few: UInt64s, many: UInt64s) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which of few are among many, and which of many among few; unlike `numpy.isin` it does not sort the many."""
    wanted, back = np.unique(few, return_inverse=True)
    if not wanted.size:
        return np.zeros(few.size, dtype=bool), np.zeros(many.size, dtype=bool)
    place = np.minimum(np.searchsorted(wanted, many), wanted.size - 1)
    shared = wanted[place] == many
    found = np.zeros(wanted.size, dtype=bool)
    found[place[shared]] = True
    return found[back], shared


def _codes(texts: list[str]) -> UInt64s:
    """The characters of all texts, each text followed by a 0 (one inside a text becomes U+FFFD)."""
    joined = "".join(text.replace("\0", "\ufffd") + "\0" for text in texts)
    return np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)


def copy_curve(longest: Ints) -> dict[int, float]:
    """Share of texts that have n characters in a row from the corpus, by n, from `Corpus.longest`."""
    return {n: float((longest >= n).mean()) if longest.size else 0.0 for n in COPY_LENGTHS}


def prompt_copies(texts: list[str], prompts: list[str]) -> list[int]:
    """Characters of the longest substring of each text that its own prompt has."""
    return [int(Corpus([prompt]).longest([text])[0]) for text, prompt in zip(texts, prompts, strict=True)]
