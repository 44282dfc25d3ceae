"""A synthetic `DMSC.csv` for the demo and the tests; nothing in it was written by a person.

The file has the format and the quirks of the Kaggle release and its published marginals: stars, reviews per user,
likes, length of comments. The films are the 28 real ones, with estimated shares of the rows.

Profile and history carry more information about these users than about real ones. A user has a temperament, from harsh
to enthusiastic. The user's ratings, pet phrase, emoji, punctuation and (weakly) username depend on it. Other habits
are independent of it: the number of clauses, a favourite aspect, whether most comments are terse. So the user's
earlier ratings help to predict a text, and the earlier texts help more. Results on this file show that the workflow
works; they say nothing about real users.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from persona.files import atomic_path
from persona.ingestion.dmsc_csv import FORM

Strings = npt.NDArray[np.object_]
Ints = npt.NDArray[np.int64]

# English title, Chinese title, rows in thousands (estimated), year-month of release.
FILMS = [
    ("Avengers Age of Ultron", "复仇者联盟2", 72, "2015-05"),
    ("Big Fish and Begonia", "大鱼海棠", 80, "2016-07"),
    ("Captain America Civil War", "美国队长3", 59, "2016-05"),
    ("Chinese Zodiac", "十二生肖", 33, "2012-12"),
    ("Chronicles of the Ghostly Tribe", "九层妖塔", 50, "2015-09"),
    ("CUG King of Heroes", "大圣归来", 129, "2015-07"),
    ("Forever Young", "栀子花开", 13, "2015-07"),
    ("Goodbye Mr. Loser", "夏洛特烦恼", 129, "2015-09"),
    ("Iron Man", "钢铁侠1", 44, "2008-04"),
    ("Journey to the West Conquering the Demons", "西游降魔篇", 99, "2013-02"),
    ("Journey to the West The Demons Strike Back", "西游伏妖篇", 44, "2017-01"),
    ("La La Land", "爱乐之城", 89, "2016-12"),
    ("Lost In Thailand", "泰囧", 99, "2012-12"),
    ("My Sunshine", "何以笙箫默", 14, "2015-04"),
    ("Operation Mekong", "湄公河行动", 56, "2016-09"),
    ("Soulmate", "七月与安生", 76, "2016-09"),
    ("The Avengers", "复仇者联盟", 76, "2012-05"),
    ("The Continent", "后会无期", 121, "2014-07"),
    ("The Ghouls", "寻龙诀", 99, "2015-12"),
    ("The Great Wall", "长城", 76, "2016-12"),
    ("The Left Ear", "左耳", 34, "2015-04"),
    ("The Mermaid", "美人鱼", 116, "2016-02"),
    ("Tiny Times 1.0", "小时代1", 56, "2013-06"),
    ("Tiny Times 3.0", "小时代3", 42, "2014-07"),
    ("Train to Busan", "釜山行", 93, "2016-08"),
    ("Transformers Age of Extinction", "变形金刚4", 74, "2014-06"),
    ("Your Name", "你的名字", 124, "2016-12"),
    ("Zootopia", "疯狂动物城", 128, "2016-03"),
]
CRAWLED = np.datetime64("2017-02-28")
# Stars 1 to 5 of the release's 2,125,056 rows.
STAR_COUNTS = np.array([190_927, 179_678, 474_559, 641_786, 638_106])
# P(k reviews) ~ k^-1.83 for k = 1..28 (an estimate for the release); its mean is near the published 2.88.
REVIEWS_EXPONENT = 1.83
# Some users are terse: about 20 % of all comments are under 10 characters; the median is near 35.
TERSE_USERS = 0.2
TERSE_COMMENTS = {True: 0.85, False: 0.03}

VERDICTS = [
    ["烂到家了", "简直浪费时间", "看得想睡觉", "全程尴尬", "一塌糊涂", "骗钱的片子", "毫无诚意", "编剧出来挨打"],
    ["比较失望", "剧情太弱了", "节奏很乱", "不太好看", "演员不在状态", "槽点太多", "后半段垮了", "期望太高了"],
    ["中规中矩", "一般般吧", "还行可以看", "无功无过", "打发时间够了", "有笑点也有硬伤", "没有想象中好", "勉强及格"],
    ["挺好看的", "值得一看", "比预期好", "画面很美", "节奏不错", "演员演得好", "有不少惊喜", "笑点很足"],
    ["太好看了", "感动到哭", "全程无尿点", "今年最佳", "必须二刷", "完美的电影", "燃爆了", "每一帧都是壁纸"],
]
# Before a verdict in all but the terse comments.
OPENINGS = [
    "从头到尾看下来",
    "走出影院只想说",
    "抱着期待去看结果",
    "身边的朋友都说",
    "就这部电影而言",
    "看完第一反应是",
    "两个小时坐下来",
    "和前作比起来",
]
ASPECTS = ["剧情", "特效", "音乐", "配音", "结尾", "台词", "主角", "画面", "彩蛋", "打戏"]
REMARKS = [
    ["没法看", "惨不忍睹", "像笑话"],
    ["差点意思", "有点水", "太老套"],
    ["还可以", "马马虎虎", "及格线上"],
    ["很用心", "加分", "很舒服"],
    ["封神", "美哭了", "无可挑剔"],
]
# By temperament, from harsh to enthusiastic.
PET_PHRASES = [
    ["呵呵", "说实话", "恕我直言", "不吹不黑", "我就问一句"],
    ["怎么说呢", "客观地讲", "总的来说", "个人觉得", "平心而论"],
    ["哈哈哈", "我觉得吧", "周末看的", "和朋友一起看", "看完心情好"],
    ["天哪", "啊啊啊", "我的妈呀", "吹爆", "本命"],
]
CLOSINGS = [
    ["退钱", "再见", "拉黑了", "浪费票钱"],
    ["仅供参考", "个人意见", "见仁见智", "以上"],
    ["推荐推荐", "下次还看", "可以带孩子", "周末愉快"],
    ["冲就完了", "给我去看", "我哭死", "二刷预定"],
]
ENDINGS = [["。", "……", "？"], ["。", "。", "，唉。"], ["~", "！", "～"], ["！！！", "！！", "!!!"]]
EMOJI = [["🙄", "😒", "👎"], ["🤔", "😐", "☕"], ["😄", "😂", "👍"], ["😍", "❤️", "🎉"]]
NAME_HEADS = [
    ["毒舌", "冷眼", "老"],
    ["路人", "旁观者", "书房里的"],
    ["小", "快乐的", "胖"],
    ["超级", "爱笑的", "元气"],
]
NAME_TAILS = ["猫", "阿飞", "影迷", "Leo", "豆豆", "木木", "王五", "Sunny", "先生", "小姐", "鱼", "K"]
TRADITIONAL = str.maketrans("剧爱丽观乐个这", "劇愛麗觀樂個這")
TEMPERAMENTS = len(PET_PHRASES)


@dataclass(frozen=True)
class Users:
    """The habits that all reviews of a user share; arrays with one element per user."""

    names: Strings
    temperament: Ints
    generosity: npt.NDArray[np.float64]
    pet_phrase: Strings
    closing: Strings
    aspect: Strings
    ending: Strings
    emoji: Strings
    clauses: Ints
    terse: npt.NDArray[np.bool_]
    traditional: npt.NDArray[np.bool_]


def write_dmsc_csv(
    path: Path, n_users: int, seed: int, habits: Literal["own", "independent"] = "own", min_reviews: int = 1
) -> None:
    """Write a synthetic release of `n_users` users; the same arguments give the same bytes.

    Args:
        habits: `own`: a review has the habits of its user. `independent`: each review has the habits of a random
            user, so the user's profile and other reviews tell nothing about it; an evaluation must then find no effect.
        min_reviews: of each user; the numbers of reviews are drawn from those of the release that are as large.
    """
    rng = np.random.default_rng(seed)
    users = _make_users(rng, n_users)
    user, film = _choose_films(rng, n_users, min_reviews)
    writer = user if habits == "own" else rng.integers(0, n_users, user.size)
    star = _rate(rng, users.generosity[writer], film)
    day = _choose_days(rng, film)
    likes = np.where(rng.random(user.size) < 0.9, 0, np.ceil(rng.pareto(1.0, user.size)).clip(max=15_499)).astype(int)
    comments = [_write_comment(rng, users, u, f, s) for u, f, s in zip(writer, film, star, strict=True)]
    rows = _with_quirks(rng, list(zip(film, users.names[user], day, star, comments, likes, strict=True)))
    _write(path, rows)


def _make_users(rng: np.random.Generator, n: int) -> Users:
    generosity = rng.normal(size=n)
    mood = generosity + 0.45 * rng.normal(size=n)
    temperament = np.searchsorted(np.quantile(mood, [0.25, 0.5, 0.75]), mood)
    return Users(
        names=_make_names(rng, temperament),
        temperament=temperament,
        generosity=generosity,
        pet_phrase=_pick(rng, PET_PHRASES, temperament),
        closing=_pick(rng, CLOSINGS, temperament),
        aspect=np.array(ASPECTS, dtype=object)[rng.integers(0, len(ASPECTS), n)],
        ending=_pick(rng, ENDINGS, temperament),
        emoji=np.where(rng.random(n) < 0.5, _pick(rng, EMOJI, temperament), ""),
        clauses=rng.choice([1, 2, 3, 4], n, p=[0.3, 0.3, 0.25, 0.15]),
        terse=rng.random(n) < TERSE_USERS,
        traditional=rng.random(n) < 0.03,
    )


def _make_names(rng: np.random.Generator, temperament: Ints) -> Strings:
    """Draw distinct usernames; slightly more than half have a first part that agrees with the temperament."""
    shown = np.where(rng.random(temperament.size) < 0.4, temperament, rng.integers(0, TEMPERAMENTS, temperament.size))
    heads = _pick(rng, NAME_HEADS, shown)
    tails = np.array(NAME_TAILS, dtype=object)[rng.integers(0, len(NAME_TAILS), temperament.size)]
    numbers = rng.permutation(temperament.size).astype(str).astype(object)
    names: Strings = heads + tails + numbers
    return names


def _pick(rng: np.random.Generator, bank: list[list[str]], kind: Ints) -> Strings:
    """Draw a random entry of `bank[kind]` for every element of `kind`."""
    width = np.array([len(entries) for entries in bank])[kind]
    index = (rng.random(kind.size) * width).astype(int)
    return np.array([bank[k][i] for k, i in zip(kind, index, strict=True)], dtype=object)


def _choose_films(rng: np.random.Generator, n_users: int, min_reviews: int) -> tuple[Ints, Ints]:
    """Draw the films that each user reviews, none twice, by their share (Gumbel top-k); return user and film."""
    numbers = np.arange(min_reviews, len(FILMS) + 1)
    weights = numbers**-REVIEWS_EXPONENT
    count = rng.choice(numbers, n_users, p=weights / weights.sum())
    share = np.log([rows for *_, rows, _ in FILMS])
    order = np.argsort(-(share + rng.gumbel(size=(n_users, len(FILMS)))), axis=1)
    chosen = np.arange(len(FILMS)) < count[:, None]
    return np.nonzero(chosen)[0], order[chosen]


def _rate(rng: np.random.Generator, generosity: npt.NDArray[np.float64], film: Ints) -> Ints:
    """Draw stars with the published marginal: a latent normal variable is cut at its quantiles."""
    quality = rng.normal(size=len(FILMS))
    quality = (quality - quality.mean()) / quality.std()
    latent = np.sqrt(0.65) * generosity + np.sqrt(0.15) * quality[film] + np.sqrt(0.2) * rng.normal(size=film.size)
    cuts = np.quantile(latent, np.cumsum(STAR_COUNTS)[:-1] / STAR_COUNTS.sum())
    stars: Ints = np.searchsorted(cuts, latent) + 1
    return stars


def _choose_days(rng: np.random.Generator, film: Ints) -> Strings:
    """Draw days after the release, most of them early, none after the crawl."""
    release = np.array([np.datetime64(f"{month}-10") for *_, month in FILMS])[film]
    latest = (CRAWLED - release).astype(int)
    delay = np.minimum(rng.exponential(60, film.size).astype(int), latest)
    days: Strings = (release + delay).astype(str).astype(object)
    return days


def _write_comment(rng: np.random.Generator, users: Users, user: int, film: int, star: int) -> str:
    """Write a comment in the user's style; its verdicts fit the star."""
    if rng.random() < TERSE_COMMENTS[bool(users.terse[user])]:
        return f"{rng.choice(VERDICTS[star - 1])}{users.ending[user]}"
    chosen = rng.permutation(len(OPENINGS))[: users.clauses[user]]
    clauses = [OPENINGS[i] + VERDICTS[star - 1][i] for i in chosen]
    if rng.random() < 0.6:
        clauses.append(users.aspect[user] + str(rng.choice(REMARKS[star - 1])))
    if rng.random() < 0.2:
        clauses.insert(0, f"《{FILMS[film][1]}》" if rng.random() < 0.7 else f'"{FILMS[film][1]}"')
    if rng.random() < 0.8:
        clauses.insert(0, users.pet_phrase[user])
    if rng.random() < 0.6:
        clauses.append(users.closing[user])
    comma = "," if rng.random() < 0.05 else "，"
    text: str = comma.join(clauses) + users.ending[user] + (users.emoji[user] if rng.random() < 0.8 else "")
    if rng.random() < 0.003:
        text = text.replace(comma, "\n", 1)
    return text.translate(TRADITIONAL) if users.traditional[user] else text


def _with_quirks(rng: np.random.Generator, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Put in blank usernames and comments, single full stops, and a name that several accounts share."""
    n_odd = max(3, len(rows) // 12_000)
    name, comment = 1, 4
    odd = [list(row) for row in rows]
    chosen = rng.permutation(len(rows))
    for group, column, values in [
        (0, name, ["", "NA", "null"]),
        (1, comment, ["", " "]),
        (2, comment, ["。", "."]),
        (3, name, ["[已注销]"]),
    ]:
        size = 2 * n_odd if group < 3 else 40 * n_odd
        for n, index in enumerate(chosen[group * 2 * n_odd : group * 2 * n_odd + size]):
            odd[index][column] = values[n % len(values)]
    return [tuple(row) for row in odd]


def _write(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """Write the rows in the order of the release: by film, then by likes."""
    rows.sort(key=lambda row: (row[0], -row[5]))
    number = 0
    previous = None
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FORM.columns)
        for index, (film, name, day, star, comment, likes) in enumerate(rows):
            number = number + 1 if film == previous else 1
            previous = film
            english, chinese = FILMS[film][:2]
            writer.writerow([index, english, chinese, CRAWLED, number, name, day, star, f" {comment}", likes])
