"""Which texts name their star."""

from __future__ import annotations

import polars as pl
import pytest

from persona.audit.star_names import NAMES_STAR


@pytest.mark.parametrize(
    "text",
    [
        "给三星",
        "5星推荐",
        "四颗星吧",
        "★★★",
        "打8分",
        "6分不能更多",
        "满分",
        "8分",
        "烂，7.5分吧",
        "8/10",
        "4.8/5",
        "给 4 / 5",
        "7,5/10!",
        "四星",
    ],
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
        "10/10 would stay again",
        "we came on 24/10/2019",
        "on 12/5 it rained",
    ],
)
def test_texts_that_do_not(text: str) -> None:
    assert not pl.Series([text]).str.contains(NAMES_STAR).item()
