"""Every metric on cases small enough to be computed by hand."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import cohen_kappa_score

from persona.audit.star_names import NAMES_STAR
from persona.evaluation.claims import Claim, claim
from persona.evaluation.metrics import texts
from persona.evaluation.metrics.authors import add_swap_gaps, author_ranks, double_centred, expected_ranks, pooled_ranks
from persona.evaluation.metrics.stars import (
    agreement,
    calibration,
    calibration_error,
    expected_star,
    median_star,
    quadratic_kappa,
    ranked_probability_score,
    star_metrics,
    within_film_tau,
)

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


def scores(rows: list[tuple[int, str, float, list[int], list[float]]]) -> pl.DataFrame:
    names = ["interaction_id", "user_id", "nll", "impostor_ids", "nll_impostors"]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(nll_empty=pl.lit(20.0))


def test_gaps_by_hand() -> None:
    row = add_swap_gaps(scores([(1, "a", 10.0, [2, 3], [11.0, 15.0])])).row(0, named=True)
    assert (row["swap_gap"], row["format_gap"]) == (3.0, 7.0)


def test_expected_ranks_by_hand() -> None:
    assert expected_ranks(2.0, np.array([1.0, 3.0, 0.0]), 4) == (0.0, 0.5)
    # Two of three impostors drawn; one is better. It is among them in 2 of 3 draws.
    acc, mrr = expected_ranks(2.0, np.array([1.0, 3.0, 0.0]), 3)
    assert acc == pytest.approx(1 / 3) and mrr == pytest.approx(1 / 3 + 2 / 3 / 2)
    # All tie: chance.
    acc, mrr = expected_ranks(1.0, np.ones(9), 10)
    assert acc == pytest.approx(0.1) and mrr == pytest.approx(0.2929, abs=1e-4)


def test_drawn_impostors_agree_with_a_simulation() -> None:
    rng = np.random.default_rng(0)
    others = rng.normal(size=14)
    ranks = [1 + (rng.choice(others, 9, replace=False) > 0.3).sum() for _ in range(20_000)]
    acc, mrr = expected_ranks(0.3, others, 10)
    assert acc == pytest.approx(np.mean(np.array(ranks) == 1), abs=0.01)
    assert mrr == pytest.approx(np.mean(1 / np.array(ranks)), abs=0.01)


def test_a_prompt_that_suits_every_review_loses_its_advantage_by_centring() -> None:
    # Likelihoods (rows reviews, columns prompts): prompt 3 is 5 nats better for all; each author has 1 nat.
    likelihood = -np.array([[10.0, 11, 6], [11, 10, 6], [11, 11, 5]])
    ids = [1, 2, 3]
    rows = []
    for n, target in enumerate(ids):
        others = [m for m in range(3) if m != n]
        rows.append((target, "abc"[n], -likelihood[n, n], [ids[m] for m in others], (-likelihood[n, others]).tolist()))
    ranks = author_ranks(scores(rows), 3)
    assert ranks["acc"].to_list() == [0.0, 0.0, 1.0]
    assert ranks["acc_centred"].to_list() == [1.0, 1.0, 1.0]
    own, centred_others = double_centred(scores(rows))[1]
    centred = likelihood - likelihood.mean(0) - likelihood.mean(1, keepdims=True) + likelihood.mean()
    assert own == pytest.approx(centred[0, 0])
    np.testing.assert_allclose(centred_others, centred[0, 1:])


def simulated(identity: float, prompt_sd: float) -> pl.DataFrame:
    """Two reviews a user in blocks of ten; a user's prompts share an effect on the likelihood of any review."""
    rng = np.random.default_rng(0)
    n = 400
    effect, rows = rng.normal(0, prompt_sd, n), []
    for film in range(2):
        for block in rng.permutation(n).reshape(-1, 10):
            nll = rng.normal(0, 1, (10, 10)) - effect[block] + rng.normal(0, 3, (10, 1))
            nll[np.diag_indices(10)] -= identity
            ids = [film * n + int(user) for user in block]
            for place, target in enumerate(ids):
                others = [m for m in range(10) if m != place]
                rows.append(
                    (target, str(target % n), nll[place, place], [ids[m] for m in others], nll[place, others].tolist())
                )
    return scores(rows)


def test_reviews_of_a_user_are_pooled() -> None:
    some = simulated(identity=1.0, prompt_sd=0.5)
    pooled = pooled_ranks(some, 10)
    assert pooled.height == 400
    assert pooled["acc"].mean() > author_ranks(some, 10)["acc_centred"].mean() + 0.05  # type: ignore[operator]


def test_a_users_prompts_being_alike_is_not_taken_for_identity() -> None:
    pooled = pooled_ranks(simulated(identity=0.0, prompt_sd=3.0), 10)
    assert pooled["acc"].mean() == pytest.approx(0.1, abs=0.03)
    assert pooled["mrr"].mean() == pytest.approx(0.293, abs=0.03)


def test_ratings_by_hand() -> None:
    stars = np.array([[0.0, 0, 0, 0.3, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]])
    np.testing.assert_allclose(expected_star(stars), [4.5, 3.0])
    assert median_star(stars).tolist() == [4, 3]
    certain = np.eye(5)
    assert ranked_probability_score(certain[[4]], np.array([5]))[0] == 0.0
    assert ranked_probability_score(certain[[0]], np.array([5]))[0] == 1.0
    # Uniform, truth 3: cumulative .2 .4 .6 .8 against 0 0 1 1.
    assert ranked_probability_score(stars[[1]], np.array([3]))[0] == pytest.approx((0.04 + 0.16 + 0.16 + 0.04) / 4)


def test_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(2, 5, 200)  # the stars 1 and 5 never occur, and count all the same
    guess = np.clip(truth + rng.integers(-1, 2, 200), 1, 5)
    expected = cohen_kappa_score(truth, guess, labels=[1, 2, 3, 4, 5], weights="quadratic")
    assert quadratic_kappa(agreement(guess, truth).sum(0)) == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    certain = np.eye(5)[[4, 4, 4, 4]]
    assert calibration_error(calibration(certain, np.array([5, 5, 5, 5])).sum(0)) == 0.0
    # One in four wrong: 0.25 too much for star 5, 0.25 too little for star 1; mean over five stars.
    assert calibration_error(calibration(certain, np.array([5, 5, 5, 1])).sum(0)) == pytest.approx(0.5 / 5)


def test_tau_is_that_of_scipy_in_one_film_and_pools_films() -> None:
    rng = np.random.default_rng(0)
    truth, guess, mean = rng.integers(1, 6, 60).astype(float), rng.normal(3, 1, 60), rng.normal(3, 0.5, 60)
    one = np.zeros(60, dtype=int)
    found = within_film_tau(guess[None], truth, mean, one, np.arange(60))
    assert found.value == pytest.approx(kendalltau(guess - mean, truth - mean).statistic)
    assert found.low < found.value < found.high
    two = within_film_tau(
        np.array([[1.0, 2, 9, 8]]), np.array([1.0, 2, 1, 2]), np.zeros(4), np.array([0, 0, 1, 1]), np.arange(4)
    )
    assert two.value == 0.0  # agrees in one film, disagrees in the other


@pytest.mark.parametrize(
    "text",
    ["给三星", "5星推荐", "四颗星吧", "★★★", "打8分", "6分不能更多", "满分", "8分", "烂，7.5分吧", "8/10", "四星"],
)
def test_texts_that_name_their_star(text: str) -> None:
    assert pl.Series([text]).str.contains(NAMES_STAR).item()


@pytest.mark.parametrize(
    "text",
    [
        "十分好看",
        "明星太多",
        "大部分时间在睡觉",
        "星爷万岁",
        "部分情节",
        "一星期后再看",
        "给我三十分钟",
        "看了两颗星球",
        "三分之一",
    ],
)
def test_texts_that_do_not(text: str) -> None:
    assert not pl.Series([text]).str.contains(NAMES_STAR).item()


def judged(gap: float, right: bool, star: float, targets: pl.DataFrame) -> Claim:
    """The claim of a model that has some swap gap, finds every author or none, and expects one star for all."""
    n = targets.height
    own = np.full(n, 10.0)
    probabilities = [[0.0] * (int(star) - 1) + [1.0] + [0.0] * (5 - int(star))] * n
    scored = targets.select("interaction_id", "user_id", "item_id", cohort=pl.lit("test")).with_columns(
        n_characters=pl.lit(10),
        nll=pl.Series(own),
        impostor_ids=targets["others"],
        nll_impostors=pl.Series([[10.0 + gap * (1 if right else -1)] * 9] * n),
        nll_empty=pl.Series(own),
        stars=pl.Series(probabilities),
    )
    authors = scored.select("interaction_id", "user_id", "impostor_ids", nll=pl.lit(0.0)).with_columns(
        nll_impostors=pl.Series([[0.0] * 9] * n)
    )
    guesses = targets.select("interaction_id", method=pl.lit("damped_bias"), rating=pl.lit(3.0))
    return claim([scored], authors, guesses, targets, 10)


@pytest.fixture(scope="module")
def hundred() -> pl.DataFrame:
    """Ten films of ten users, all of whom gave five stars."""
    ids = list(range(100))
    others = [[o for o in range(10 * (n // 10), 10 * (n // 10) + 10) if o != n] for n in ids]
    keys = {"interaction_id": ids, "user_id": [f"u{n:03}" for n in ids], "item_id": [f"f{n // 10}" for n in ids]}
    return pl.DataFrame(keys | {"others": others, "rating": [5.0] * 100})


@pytest.mark.parametrize(
    ("gap", "right", "star", "holds"),
    [
        (1.0, True, 5, [True, True, True]),
        (1.0, False, 5, [False, False, True]),
        (0.0, True, 5, [False, False, True]),  # nothing is told apart: chance, as the baseline
        (1.0, True, 3, [True, True, False]),  # as good as the baseline is not better
    ],
)
def test_personalisation_is_claimed_by_three_conditions(
    gap: float, right: bool, star: float, holds: list[bool], hundred: pl.DataFrame
) -> None:
    found = judged(gap, right, star, hundred)
    assert [condition.holds for condition in found.conditions] == holds
    assert found.allowed is all(holds)


def test_without_stars_or_without_enough_impostors(hundred: pl.DataFrame) -> None:
    no_stars = judged(1.0, True, 5, hundred.with_columns(rating=pl.lit(None, dtype=pl.Float64)))
    assert [condition.name for condition in no_stars.conditions] == ["swap_gap", "author"] and no_stars.allowed
    lonely = hundred.with_columns(others=pl.col("others").list.head(2))
    few = judged(1.0, True, 5, lonely)
    assert few.conditions[1].holds is None and not few.allowed


def test_seeds_are_averaged_and_do_not_make_a_better_model(hundred: pl.DataFrame) -> None:
    rng = np.random.default_rng(0)
    rows = hundred.with_columns(history_mean=pl.lit(None, dtype=pl.Float64))
    seeds = [rows.with_columns(stars=pl.Series(rng.dirichlet(np.full(5, 0.3), 100).tolist())) for _ in range(3)]
    single = [star_metrics([table])["rps"].value for table in seeds]
    assert star_metrics(seeds)["rps"].value == pytest.approx(np.mean(single))
    squares = [star_metrics([table])["rmse"].value ** 2 for table in seeds]
    assert star_metrics(seeds)["rmse"].value ** 2 == pytest.approx(np.mean(squares))
