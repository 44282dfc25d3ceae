"""What was trained, in use: the same prompts, texts and scores as in the workflow, also for who is not in the data."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from persona.__main__ import main
from persona.errors import PersonaError
from persona.inference import room
from persona.inference.explain import WHOLE, explain, shorter_prompts
from persona.inference.lookup import user_range
from persona.inference.question import ask
from persona.inference.writer import Completion, Writer, one_process
from persona.prompts import load_style
from persona.study import Study
from persona.tables import schemas
from persona.tables.parquet import read_table, write_table
from persona.tokenization.chat import chat_frame, encode
from tests.workflow.conftest import ROOT

Call = Callable[..., str]


@pytest.fixture
def study(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The results of the workflow, in the folder where it ran."""
    monkeypatch.chdir(finished)
    return Study.load(None)


@pytest.fixture
def writer(study: Study) -> Iterator[Writer]:
    with one_process():
        yield Writer(study, study.stage("history"))


@pytest.fixture
def persona(study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls `python -m persona` in this process; what it printed, or its error."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["persona", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return str(end.code)
        return capsys.readouterr().out

    return call


def targets(study: Study, cohort: str = "test") -> pl.DataFrame:
    """The targets of a cohort with earlier texts."""
    table = read_table(study.table("targets"), schemas.TARGETS)
    return table.filter(pl.col("cohort") == cohort, pl.col("n_history") > 1)


def name_of(study: Study, user: str) -> str:
    profile = read_table(study.table("users"), schemas.USERS, users=user_range(user))["profile"][0]
    return str(profile[0]["value"])


def with_history(study: Study) -> tuple[int, str]:
    row = targets(study).sort("n_history", descending=True).row(0, named=True)
    return row["interaction_id"], row["user_id"]


@pytest.mark.parametrize(("stage", "sample"), [("quick", "test"), ("history", "val"), ("all_data", "everything")])
def test_a_prompt_has_the_tokens_that_the_stage_was_trained_and_scored_with(
    study: Study, stage: str, sample: str
) -> None:
    writer = Writer(study, study.stage(stage))
    stored = read_table(writer.stage.tokens(sample), schemas.TOKENS).sample(fraction=1.0, shuffle=True, seed=0).head(12)
    assert stored.height >= 6
    for row in stored.iter_rows(named=True):
        prompt = writer.prompt(ask(study, target=row["interaction_id"]))
        assert prompt.ids == row["input_ids"][: row["prompt_length"]]
        assert prompt.n_dropped == row["n_history_dropped"]
        assert prompt.row["input_ids"] == row["input_ids"]


def test_texts_stars_and_scores_are_those_of_the_evaluation(study: Study, writer: Writer) -> None:
    folder = writer.stage.evaluated()
    generations = read_table(folder / "generations.parquet", schemas.GENERATIONS)
    scores = read_table(folder / "scores.parquet", schemas.SCORES).filter(pl.col("cohort") == "test")
    for target in generations["interaction_id"].unique().sort()[:3]:
        question = ask(study, target=target)
        prompt = writer.prompt(question)
        written = generations.filter(pl.col("interaction_id") == target).sort("method", "draw")
        assert [draft.text for draft in writer.drafts(prompt, 1)] == written["text"].to_list()
        row = scores.filter(pl.col("interaction_id") == target).row(0, named=True)
        real = writer.real(question, prompt)
        assert real
        (score,) = writer.score([prompt.ids], real)
        assert score.nll == pytest.approx(row["nll"], abs=1e-4) and score.n_tokens == row["n_tokens"]
        assert writer.stars(prompt) == pytest.approx([star / sum(row["stars"]) for star in row["stars"]], abs=1e-6)


def plain_nll(writer: Writer, prompt: str, text: str, given: str = "") -> float:
    """Computed with transformers alone, one prompt at a time; `given` stands before the text."""
    tokenizer = writer.model.tokenizer
    frame = chat_frame(tokenizer)
    parts = [encode(tokenizer, [part], special=True)[0] for part in (frame.before, frame.between, frame.end)]
    before, between, end = parts
    asked, line, written = encode(tokenizer, [prompt, given, text], special=False)
    ids = torch.tensor([before + asked + between + line + written + end])
    model = AutoModelForCausalLM.from_pretrained(writer.model.path, dtype=torch.float32)
    with torch.inference_mode():
        logs = model(ids).logits[0].double().log_softmax(-1)
    first = ids.shape[1] - len(written) - len(end)
    return -sum(float(logs[n - 1, ids[0, n]]) for n in range(first, ids.shape[1]))


def test_an_explanation_is_what_a_plain_computation_of_each_shorter_prompt_gives(study: Study, writer: Writer) -> None:
    target, _ = with_history(study)
    question = ask(study, target=target)
    prompt = writer.prompt(question)
    text = question.real_text or ""
    explanation = explain(writer, question, prompt, Completion(text), frozenset())
    base = plain_nll(writer, prompt.text, text)
    assert explanation.nll == pytest.approx(base, abs=1e-3) and explanation.rounding < 1e-3
    entries = [line for line in prompt.text.split("\n") if re.match(r"\d+\. \[", line)]
    found = {(effect.part, effect.what): effect.nats for effect in explanation.effects}
    assert len(entries) == prompt.n_history > 1
    assert [what for part, what in found if part == "history"] == [WHOLE, *entries]
    for entry in entries:
        without = prompt.text.replace(f"{entry}\n", "", 1)
        assert found["history", entry] == pytest.approx(plain_nll(writer, without, text) - base, abs=1e-3)
    profile, history = "[USER_PROFILE]\n[USER_", "[HISTORY]\n"
    start, end = prompt.text.index(history), prompt.text.index("[TASK]")
    whole = plain_nll(writer, prompt.text[:start] + prompt.text[end:], text) - base
    assert found["history", WHOLE] == pytest.approx(whole, abs=1e-3)
    # The only field of the profile, with which the whole profile goes.
    start = prompt.text.index(profile)
    whole = plain_nll(writer, prompt.text[:start] + prompt.text[prompt.text.index(history) :], text) - base
    assert found["profile", f"NAME={name_of(study, question.user_id)}"] == pytest.approx(whole, abs=1e-3)
    assert ("profile", WHOLE) not in found
    assert max(map(abs, found.values())) > 0.01


def test_a_user_is_found_by_hash_and_by_name_and_the_nearest_are_named(study: Study, persona: Call) -> None:
    target, user = with_history(study)
    name = name_of(study, user)
    item = targets(study).filter(pl.col("interaction_id") == target)["item_id"][0]
    by_hash = persona("write", "--stage", "history", "--user", user, "--item", item, "--print-prompt")
    assert persona("write", "--stage", "history", "--user", name, "--item", item, "--print-prompt") == by_hash
    assert f"[USER_HASH={user}]" in by_hash
    assert f"no user has this name or hash; the nearest names are {name} ({user})" in persona(
        "write", "--user", f"{name}x", "--item", item
    )
    title = dict(read_table(study.table("items"), schemas.ITEMS, ["item_id", "title"]).iter_rows())[item]
    assert f"no item has this id or title; the nearest are {title}" in persona(
        "write", "--user", user, "--item", f"{title}x"
    )
    assert "hist: no such stage was trained (did you mean history?); there are quick, history" in persona(
        "write", "--stage", "hist", "--user", user
    )
    assert "no item is given: name one by id or title" in persona("write", "--user", user)
    assert persona("write", "--stage", "history", "--user", user[:6], "--item", item, "--print-prompt") == by_hash
    assert user in persona("show")
    assert "12345: no text has this interaction_id; the nearest is " in persona("show", "--target", 12345)


def test_without_names_in_the_data_only_the_hash_is_taken(study: Study) -> None:
    _, user = with_history(study)
    data = study.data | {"options": study.data["options"] | {"pseudonymise": True}}
    hidden = Study(study.folder, {name: replace(stage, data=data) for name, stage in study.stages.items()})
    with pytest.raises(PersonaError, match=r"names were left out of this data \(pseudonymise: true\); give the hash"):
        ask(hidden, user=name_of(study, user), title="x")
    assert ask(hidden, user=user, title="x").user_id == user


def test_what_nobody_has_written_yet_is_asked_after_all_that_the_user_wrote(study: Study, writer: Writer) -> None:
    _, user = with_history(study)
    texts = read_table(study.table("interactions"), schemas.INTERACTIONS, users=user_range(user)).sort("position")
    question = ask(study, user=user, title="长夜之后")
    prompt = writer.prompt(question)
    assert question.real_text is None and question.split is None
    assert "\n长夜之后\n" in prompt.text
    assert prompt.n_history + prompt.n_dropped == texts.height
    last = prompt.text[: prompt.text.index("[TASK]")].rstrip().split("\n")[-1]
    assert last.startswith(f"{texts.height}. [") and " ".join(texts["text"][-1].split())[:8] in last


def test_a_title_of_the_data_is_not_taken_for_a_new_one(study: Study, persona: Call) -> None:
    """The history would show the user's own text about it."""
    target, user = with_history(study)
    item = targets(study).filter(pl.col("interaction_id") == target)["item_id"][0]
    title = dict(read_table(study.table("items"), schemas.ITEMS, ["item_id", "title"]).iter_rows())[item]
    assert f"--title {title}: this title is in the data, so ask for it with --item" in persona(
        "write", "--user", user, "--title", title
    )


def test_what_was_dropped_for_lack_of_room_stays_dropped_when_a_text_is_explained(study: Study) -> None:
    stage = study.stage("history")
    target, _ = with_history(study)
    question = ask(study, target=target)
    whole = Writer(study, stage).prompt(question)
    small = replace(
        stage, fit=stage.fit.model_copy(update={"max_length": len(whole.row["input_ids"]) - 5, "completion_reserve": 1})
    )
    writer = Writer(study, small)
    prompt = writer.prompt(question)
    assert prompt.n_dropped > 0 and prompt.n_history > 0
    for part, what, text in shorter_prompts(writer, question, prompt, frozenset()):
        lines = [line for line in prompt.text.split("\n") if line]
        kept = [line for line in text.split("\n") if line]
        gone = [line for line in lines if line not in kept]
        assert set(kept) < set(lines)
        if what != WHOLE:
            left_out = f"[USER_{what}]" if part == "profile" else what
            # With its only entry a section loses its heading.
            assert left_out in gone and set(gone) <= {left_out, "[USER_PROFILE]", "[HISTORY]"}


def test_a_user_who_is_not_in_the_data_comes_as_json_lines(study: Study, persona: Call, tmp_path: Path) -> None:
    texts = [("画皮", "2012-01-05", 2, "看得很累"), ("风声", "2012-02-05", 5, "意外地好看")]
    rows = [
        {"user": "新人", "item": item, "day": day, "rating": stars, "text": text, "profile": {"name": "新人"}}
        for item, day, stars, text in texts
    ]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    prompt = persona("write", "--stage", "history", "--history", file, "--title", "长夜之后", "--print-prompt")
    assert "[USER_NAME=新人]" in prompt
    assert "1. [画皮] 2012-01-05 评分：2.0 影评：看得很累\n2. [风声] 2012-02-05 评分：5.0 影评：意外地好看\n" in prompt
    without = persona(
        "write",
        "--stage",
        "history",
        "--history",
        file,
        "--title",
        "长夜之后",
        "--without",
        "history",
        "--print-prompt",
    )
    assert "[HISTORY]" not in without and "[USER_NAME=新人]" in without
    file.write_text(json.dumps(rows[0] | {"day": "tomorrow"}) + "\n", encoding="utf-8")
    wrong = persona("write", "--history", file, "--title", "x")
    assert "none of its 1 rows can be used as jsonl: day is not YYYY-MM-DD (1)" in wrong
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"user": "新人"}]), encoding="utf-8")
    assert f"{file}, line 3: no item; see docs" in persona("write", "--history", file, "--title", "长夜之后")


def test_the_command_prints_texts_stars_score_and_what_moved_it(study: Study, persona: Call) -> None:
    target, user = with_history(study)
    shown = persona("write", "--stage", "history", "--target", target, "--samples", 2, "--explain")
    real = targets(study).filter(pl.col("interaction_id") == target)["text"][0]
    for words in (
        f"user {user}",
        "greedy   ",
        "sample 1 ",
        "sample 2 ",
        f"real      {real}",
        "stars     ",
        "history  all of it",
    ):
        assert words in shown
    scored = persona("write", "--stage", "history", "--target", target, "--score", "还不错")
    assert "scored    还不错" in scored and "greedy" not in scored
    assert "--without: got likes, allowed are profile, history, context" in persona(
        "write", "--target", target, "--without", "likes"
    )


def test_a_stage_that_writes_stars_scores_a_text_after_its_stars(study: Study) -> None:
    stage = study.stage("history")
    with_stars = load_style(ROOT / "config" / "prompts" / "detailed_with_stars.yaml")
    # Not trained on it, which makes no difference to what is asked.
    writer = Writer(study, replace(stage, spec=replace(stage.spec, style=with_stars)))
    target, user = with_history(study)
    question = ask(study, target=target)
    prompt = writer.prompt(question)
    real = writer.real(question, prompt)
    assert real and real.star_line == f"{question.target['rating'][0]:g}\n" and real.text == question.real_text
    with one_process():
        (score,) = writer.score([prompt.ids], real)
        assert score.nll == pytest.approx(plain_nll(writer, prompt.text, real.text, real.star_line), abs=1e-3)
        with pytest.raises(PersonaError, match="writes the stars before the text; give them with --rating"):
            writer.given("还不错", None)
        assert writer.given(" 还不错 ", 4.0) == Completion("还不错", "4\n")
        unwritten = ask(study, user=user, title="长夜之后")
        asked = writer.prompt(unwritten)
        draft = writer.drafts(asked, 0)[0]
        assert explain(writer, unwritten, asked, draft.completion, frozenset()).effects


def test_what_is_not_understood_is_refused_in_one_line(study: Study, persona: Call, tmp_path: Path) -> None:
    _, user = with_history(study)
    asked = ("write", "--stage", "history", "--user", user)
    refused = {
        (*asked, "--title", " "): "--title: it is empty",
        (
            *asked,
            "--title",
            "x",
            "--context",
            "A: hi",
        ): "dmsc_csv has no conversations; leave it out",
        (*asked, "--title", "x", "--context", "hi"): "got 'hi', allowed is SPEAKER: TEXT",
        (*asked, "--title", "x", "--score", " "): "there is no text to score",
        (*asked, "--title", "x", "--rating", 4): "--rating: only a text of --score has it",
        (*asked, "--title", "\udcff"): "this argument is not UTF-8",
        ("show", "--user", ""): "the user's name is empty",
        ("write", "--history", tmp_path / "no.jsonl", "--title", "x"): "no.jsonl: no such file",
        ("publish", "--repo", "bad name"): "--repo: got bad name, allowed is OWNER/NAME",
        (
            "compare",
            study.folder,
            study.folder,
            "--output",
            study.table("users"),
        ): "is a file; name a folder",
    }
    for arguments, words in refused.items():
        answer = persona(*arguments)
        assert answer.startswith("error: ") and words in answer and "\n" not in answer, (arguments, answer)
    for option, value in (("--samples", -1), ("--seed", -1), ("--seed", 2**40), ("--target", "x")):
        assert persona(*asked, option, value) == "2"  # argparse says what is allowed


def test_of_several_users_who_fit_none_is_taken(study: Study, tmp_path: Path) -> None:
    """One by what ids are made of, another by the name in the profile."""
    users = read_table(study.table("users"), schemas.USERS)
    name = name_of(study, users["user_id"][0])
    other = users["user_id"][-1]
    same = pl.when(pl.col("user_id") == other).then(
        pl.lit([{"field": "name", "value": name}], schemas.USERS.columns["profile"])
    )
    for table in ("interactions", "items", "targets"):
        (tmp_path / f"{table}.parquet").symlink_to(study.table(table).resolve())
    write_table(users.with_columns(profile=same.otherwise("profile")), tmp_path / "users.parquet", schemas.USERS)
    with pytest.raises(PersonaError, match=rf"{name}: 2 users have this name; give a hash: .*{other}"):
        ask(Study(tmp_path, study.stages), user=name, title="x")


def test_what_the_data_knows_of_an_item_holds_for_texts_of_a_file(study: Study, writer: Writer, tmp_path: Path) -> None:
    items = read_table(study.table("items"), schemas.ITEMS)
    item, title = items.select("item_id", "title").row(0)
    file = tmp_path / "texts.jsonl"
    row = {"user": "新人", "item": item, "title": title, "day": "2012-01-05", "rating": 2, "text": "看得很累"}
    file.write_text(json.dumps(row), encoding="utf-8")
    question = ask(study, history=file, item=item)
    assert question.items.filter(item_id=item).equals(items.filter(item_id=item))


def test_a_draft_that_was_cut_off_is_scored_without_an_end(study: Study, writer: Writer) -> None:
    target, _ = with_history(study)
    prompt = writer.prompt(ask(study, target=target))
    cut, whole = (writer.score([prompt.ids], Completion("还不错", is_whole=whole))[0] for whole in (False, True))
    assert cut.n_tokens == whole.n_tokens - 1 and cut.nll < whole.nll


def test_a_request_has_the_tokens_of_the_prompt(study: Study, persona: Call, writer: Writer) -> None:
    target, _ = with_history(study)
    request = json.loads(persona("write", "--stage", "history", "--target", target, "--print-request"))
    seeded = json.loads(persona("write", "--stage", "history", "--target", target, "--seed", 7, "--print-request"))
    assert seeded == request | {"seed": 7}
    assert request["prompt"] == writer.prompt(ask(study, target=target)).ids
    assert request["stop_token_ids"] == [writer.end] and request["model"] == "history"


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    study: Study, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "NEEDED", 1e9)  # as if the model were so many times as large
    target, _ = with_history(study)
    with pytest.raises(
        PersonaError, match=r"stage history needs about [\d,.]+ TB and this machine has .* GPUs of 80 GB"
    ):
        writer.drafts(writer.prompt(ask(study, target=target)), 1)


def test_a_user_is_shown_with_texts_samples_and_scores(study: Study, persona: Call) -> None:
    # One who has impostors.
    target, user = targets(study).drop_nulls("block").select("interaction_id", "user_id").row(0)
    shown = persona("show", "--user", user)
    texts = read_table(study.table("interactions"), schemas.INTERACTIONS, users=user_range(user))
    assert f"user {user}, {texts.height} texts" in shown
    for interaction in texts["interaction_id"]:
        assert str(interaction) in shown
    assert re.search(rf"{target} +history +\d\.\d{{3}} +[+-]\d\.\d{{3}} +\d+ of \d+", shown)


def test_a_text_is_followed_from_its_raw_row_to_its_score(study: Study, persona: Call) -> None:
    target, user = with_history(study)
    row = targets(study).filter(pl.col("interaction_id") == target).row(0, named=True)
    shown = persona("show", "--target", target)
    raw = Path(study.data["path"]).read_text(encoding="utf-8")
    assert shown.split("\n")[1] in raw and name_of(study, user) in shown.split("\n")[1]
    score = read_table(study.stage("history").evaluated() / "scores.parquet", schemas.SCORES)
    nll = score.filter(pl.col("interaction_id") == target).row(0, named=True)
    assert f"split test; target of test\n{row['text']}" in shown
    for words in ("--- stage quick ---", "--- stage all_data ---", "[HISTORY]"):
        assert words in shown
    assert f"NLL a character {nll['nll'] / nll['n_characters']:.3f}" in shown
