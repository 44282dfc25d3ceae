"""Metrics of texts on cases small enough to compute by hand, and against independent computations."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from persona.evaluation.metrics import texts

OVERLAPS = [texts.chrf, texts.rouge_l, texts.bleu_zh]


@pytest.mark.parametrize("score", OVERLAPS)
@pytest.mark.parametrize("text", ["好看", "这部电影太好看了，推荐！", "好看😄", "a", "🎉"])
def test_a_text_is_its_own_equal(score: object, text: str) -> None:
    assert score(text, text) == pytest.approx(1.0)  # type: ignore[operator]


@pytest.mark.parametrize("score", OVERLAPS)
def test_disjoint_and_empty_texts_have_nothing_in_common(score: object) -> None:
    for text, reference in [("好看", "难听"), ("", "好看"), ("好看", ""), ("", ""), ("😄😄", "好看")]:
        assert score(text, reference) == pytest.approx(0.0, abs=1e-9)  # type: ignore[operator]


def test_rouge_l_by_hand() -> None:
    # Longest common subsequence 很好看 (3) of 4 and 5 characters.
    assert texts.rouge_l("很好看！", "真的很好看") == pytest.approx(2 * 3 / 9)
    assert texts.rouge_l("很 好看", "很好看") == 1.0


def test_chrf_by_hand() -> None:
    # 好看 against 好听: one of two unigrams, no bigram; n = 1, 2 alone have n-grams. F = mean over n.
    assert texts.chrf("好看", "好听") == pytest.approx((0.5 + 0) / 2, abs=1e-6)


def test_style_distance_by_hand() -> None:
    assert texts.style_distance(["好看！"], ["难听！"]) == 0.0  # content does not count
    assert texts.style_distance(["！"], ["。"]) == pytest.approx(1.0)
    # {！: 1/2, other: 1/2} against {other: 1}: H(1/4, 3/4) - (1 + 0) / 2 bits.
    expected = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)) - 0.5
    assert texts.style_distance(["好！"], ["好"]) == pytest.approx(expected)
    assert texts.style_counts(["的😄，🎉"]) == {"的": 1, "emoji": 2, "，": 1}
    assert texts.style_distance([""], [""]) == 0.0 and texts.style_distance([""], ["好"]) == 1.0


def test_variety_by_hand() -> None:
    assert texts.distinct(["好好看", "好"], 1) == 2 / 4
    assert texts.distinct(["好好看", "好"], 2) == 1.0
    assert texts.distinct(["", "好"], 2) == 0.0
    assert texts.self_bleu(["太好看了", "太好看了"]) == pytest.approx(1.0)
    assert texts.self_bleu(["太好看了"]) == 0.0
    assert texts.self_bleu(["好看", "难听"]) == pytest.approx(0.0, abs=1e-9)
    assert texts.log_length_difference("好看", "好看吗？好看。") == pytest.approx(math.log(8 / 3))


def test_copied_characters_by_hand() -> None:
    corpus = texts.Corpus(["这部电影很好看", "不推荐"])
    # 影很好看 is in the corpus; 看不 is not: it would run over two texts.
    assert corpus.longest(["电影很好看不推荐", "推荐", "烂", ""]).tolist() == [5, 2, 0, 0]
    assert corpus.longest(["看不", "很好"]).tolist() == [1, 2]
    curve = texts.copy_curve(corpus.longest(["很好看", "烂片"]))
    assert curve[2] == 0.5 and curve[3] == 0.5 and curve[4] == 0.0
    assert texts.prompt_copies(["好看！"], ["真好看"]) == [2]
    assert texts.Corpus([]).longest(["好"]).tolist() == [0]


def test_copied_characters_as_a_search_finds_them() -> None:
    rng = np.random.default_rng(0)
    corpus = ["".join(rng.choice(list("好看的片"), 30)) for _ in range(20)]
    some = ["".join(rng.choice(list("好看的片"), rng.integers(0, 25))) for _ in range(30)]
    found = texts.Corpus(corpus).longest(some).tolist()
    expected = [
        max(
            (j - i for i in range(len(t)) for j in range(i + 1, len(t) + 1) if any(t[i:j] in c for c in corpus)),
            default=0,
        )
        for t in some
    ]
    assert found == expected


def longest_common_subsequence(a: str, b: str) -> int:
    """By dynamic programming, row by row."""
    row = [0] * (len(b) + 1)
    for x in a:
        above = row
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


def test_rouge_l_is_the_f1_of_an_independent_longest_common_subsequence() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = ("".join(rng.choice(list("好看的片 ，"), rng.integers(1, 30))) for _ in range(2))
        x, y = "".join(a.split()), "".join(b.split())
        if not x or not y:
            assert texts.rouge_l(a, b) == 0.0
            continue
        length = longest_common_subsequence(x, y)
        precision, recall = length / len(x), length / len(y)
        expected = 2 * precision * recall / (precision + recall) if length else 0.0
        assert texts.rouge_l(a, b) == pytest.approx(expected, abs=1e-15)


def jensen_shannon(p: list[float], q: list[float]) -> float:
    """(KL(p, m) + KL(q, m)) / 2 in bits, m = (p + q) / 2."""
    divergence = 0.0
    for a, b in zip(p, q, strict=True):
        mean = (a + b) / 2
        divergence += sum(x * math.log2(x / mean) for x in (a, b) if x) / 2
    return divergence


def test_style_distance_is_the_jensen_shannon_divergence_of_plain_python() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        both = [["".join(rng.choice(list("的了好看，。！😄"), rng.integers(1, 40)))] for _ in range(2)]
        counts = [texts.style_counts(written) for written in both]
        names = sorted(counts[0] | counts[1])
        p, q = ([c[name] / c.total() for name in names] for c in counts)
        assert texts.style_distance(*both) == pytest.approx(jensen_shannon(p, q), abs=1e-12)


def test_the_style_distance_of_almost_equal_texts_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of a divergence that rounding made negative would be NaN."""
    monkeypatch.setattr(texts, "style_counts", lambda written: Counter(dict(zip("，。的好", written, strict=True))))
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(10**9, 10**10, 4)
        distance = texts.style_distance(counts.tolist(), (counts + rng.integers(0, 3, 4)).tolist())
        assert 0 <= distance < 1e-12


def test_texts_are_chinese_if_most_letters_are() -> None:
    assert texts.are_chinese(["好看！", "the end", "值得再看一遍，推荐给大家"])
    assert (
        not texts.are_chinese(["a good film", "好"]) and not texts.are_chinese(["123 !"]) and not texts.are_chinese([])
    )
