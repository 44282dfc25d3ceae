"""What the words and measures of the report mean, in English and Chinese."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from persona.reporting.evidence import Bilingual


@dataclass(frozen=True)
class Term:
    """A word of the report: how it is written there, and what it means."""

    label: Bilingual
    meaning: Bilingual


# By the names of the tables' columns.
TERMS: dict[str, Term] = {
    "personal": Term(
        ("personal?", "个性化？"),
        (
            "whether the stage can be said to write like a particular user: every condition that was asked must "
            "have an interval above 0 (✓ met, ✗ not met, · cannot be computed, – not asked)",
            "能否说该阶段学会了像特定用户那样写作：所问的每个条件的区间都须大于 0"
            "（✓ 满足，✗ 不满足，· 无法计算，– 未询问）",
        ),
    ),
    "nll": Term(
        ("NLL", "NLL"),
        (
            "negative log-likelihood of the user's real text, in nats per character; lower is better",
            "用户真实文本的负对数似然，单位为奈特/字；越低越好",
        ),
    ),
    "swap_gap": Term(
        ("swap gap", "换人似然差"),
        (
            "NLL under other users' prompts minus NLL under the user's own prompt, with the same item and "
            "conversation; above 0, the model uses what is specific to this user",
            "换成其他用户的提示词（条目与对话不变）后的 NLL 减去用户自己提示词下的 NLL；"
            "大于 0 说明模型用到了该用户特有的信息",
        ),
    ),
    "acc": Term(
        ("author found", "认出作者"),
        (
            "share of texts whose right author is picked out of {candidates} users of the same item, by the "
            "likelihood of the text under each user's prompt; chance is {chance}",
            "在同一条目的 {candidates} 名用户中，按文本在各用户提示词下的似然选中真正作者的比例；随机水平为 {chance}",
        ),
    ),
    "mrr": Term(
        ("author's MRR", "作者 MRR"),
        ("mean reciprocal rank of the right author; higher is better", "真正作者排名倒数的均值；越高越好"),
    ),
    "rmse": Term(
        ("star RMSE", "星级 RMSE"),
        (
            "root mean squared error of the expected star; lower is better",
            "期望星级的均方根误差；越低越好",
        ),
    ),
    "mae": Term(
        ("star MAE", "星级 MAE"), ("mean absolute error of stars; lower is better", "星级的平均绝对误差；越低越好")
    ),
    "qwk": Term(
        ("star QWK", "星级 QWK"),
        ("quadratically weighted kappa of stars; higher is better", "星级的二次加权 kappa；越高越好"),
    ),
    "rps": Term(
        ("star RPS", "星级 RPS"),
        ("ranked probability score of the star probabilities; lower is better", "星级概率的排序概率评分；越低越好"),
    ),
    "ece": Term(
        ("star ECE", "星级 ECE"),
        ("expected calibration error of the star probabilities; lower is better", "星级概率的期望校准误差；越低越好"),
    ),
    "tau": Term(
        ("star tau", "星级 tau"),
        (
            "Kendall's tau-b of (star minus the user's mean) among users of an item; compare with that of the "
            "global mean",
            "同一条目各用户之间（星级减去用户均值）的 Kendall tau-b；请与全局均值的 tau 相比",
        ),
    ),
    "targets": Term(("texts", "文本数"), ("texts that were written", "生成的文本数")),
    "chrf": Term(
        ("chrF", "chrF"),
        (
            "overlap of character n-grams of the written with the real text, 0 to 1; it says little about the "
            "user, since texts on the same item are similar",
            "生成文本与真实文本字符 n 元的重合度，0 到 1；同一条目的文本本来就相似，因此很少反映用户",
        ),
    ),
    "rouge_l": Term(
        ("ROUGE-L", "ROUGE-L"), ("longest common subsequence of characters, F-score", "字符最长公共子序列的 F 值")
    ),
    "bleu_zh": Term(("BLEU zh", "BLEU zh"), ("BLEU with Chinese tokens", "按中文切分的 BLEU")),
    "style_distance": Term(
        ("style distance", "风格距离"),
        (
            "Jensen-Shannon divergence of punctuation, emoji and function characters; lower is better",
            "标点、表情与虚字分布的 Jensen-Shannon 散度；越低越好",
        ),
    ),
    "distinct_2": Term(
        ("distinct-2", "distinct-2"), ("share of different character pairs", "不同字符二元组所占的比例")
    ),
    "self_bleu": Term(
        ("self-BLEU", "self-BLEU"),
        ("how similar the written texts are to each other", "生成文本彼此之间的相似度"),
    ),
}


def legend(columns: Sequence[str], candidates: int) -> list[Term]:
    """The terms of the columns that a page shows."""
    chance = f"{1 / candidates:.3f}"
    return [
        Term(term.label, (_filled(term.meaning[0], candidates, chance), _filled(term.meaning[1], candidates, chance)))
        for name, term in TERMS.items()
        if name in columns
    ]


def _filled(text: str, candidates: int, chance: str) -> str:
    return text.replace("{candidates}", str(candidates)).replace("{chance}", chance)
