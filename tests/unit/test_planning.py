"""The plan's arithmetic against values counted in other ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig, Qwen3Config, Qwen3ForCausalLM

from persona.modeling.packing import PartOfTokens, TokenTable
from persona.planning import cost
from persona.planning.cost import (
    GIB,
    Epoch,
    Launch,
    ModelSize,
    Work,
    computed_tokens_by_user,
    counted_samples,
    epoch_step,
    flops,
    larger_steps,
    memory,
    model_size,
    nearest_that_fits,
    step_seconds,
    step_traffic,
    validation_seconds,
)
from persona.planning.layouts import compare_layouts
from persona.planning.settings import Hardware
from persona.tables import schemas
from persona.tables.parquet import write_table
from persona.training.settings import Lora, Schedule
from tests.gpu.real_model import real_config

DEEPSPEED = Path(__file__).parents[2] / "config" / "deepspeed"
H100 = Hardware(memory_gib=79, peak_tflops=989, utilisation=0.28, interconnect_gb_s=450, micro_step_overhead_s=0)


@pytest.fixture(scope="module")
def qwen3_30b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published config of Qwen3-30B-A3B-Instruct-2507, without weights."""
    folder = tmp_path_factory.mktemp("qwen3_30b")
    real_config(48).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def size(qwen3_30b: Path) -> ModelSize:
    return model_size(str(qwen3_30b), None)


def test_parameters_are_the_published_ones(size: ModelSize) -> None:
    assert size.parameters == 30_532_122_624  # 61,064,216,576 bytes of bfloat16 in its files, headers included
    embedding = 151_936 * 2048
    assert size.head_parameters == embedding
    assert (size.active_parameters + size.head_parameters + embedding) / 1e9 == pytest.approx(3.3, abs=0.06)


def test_adapters_are_counted_as_peft_makes_them(qwen3_30b: Path) -> None:
    lora = Lora(r=8, alpha=16, dropout=0.0, target_modules=["q_proj", "v_proj"])
    by_hand = 48 * 8 * ((2048 + 32 * 128) + (2048 + 4 * 128))
    assert model_size(str(qwen3_30b), lora).trained_parameters == by_hand


def test_memory_is_divided_as_zero_divides_it(size: ModelSize) -> None:
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=8, bytes_per_weight=2)
    needed = memory(size, launch, 8192, recompute=True)
    assert needed.weights + needed.gradients + needed.optimizer == pytest.approx(30.532e9 * 16 / 8 / GIB, rel=1e-3)
    offloaded = Launch.from_deepspeed(DEEPSPEED / "zero3_offload.json", processes=8, bytes_per_weight=2)
    assert memory(size, offloaded, 8192, recompute=True).optimizer == 0
    whole = memory(size, replace(launch, zero_stage=0), 8192, recompute=True)
    assert whole.weights + whole.gradients + whole.optimizer == pytest.approx(30.532e9 * 16 / GIB, rel=1e-3)
    assert memory(size, replace(launch, zero_stage=2), 8192, recompute=True).weights == whole.weights


def test_a_step_of_64_samples_is_bound_by_traffic(size: ModelSize) -> None:
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=8, bytes_per_weight=2)
    lengths, nothing = np.full(64, 400), np.zeros(64, dtype=np.int64)
    assert flops(size, Work(lengths, nothing, 64 * 400), recompute=True) / lengths.sum() == pytest.approx(
        25e9, rel=0.02
    )
    work = flops(size, Work(lengths, nothing, 64 * 35), recompute=True)
    step = step_seconds(size, launch, H100, work, 1, step_traffic(size, launch, 1))
    assert step.compute == pytest.approx(0.26, abs=0.01)
    # Weights twice and gradients once, 7 of 8 parts of each.
    assert step.traffic == step.total == pytest.approx(3 * 61.06e9 * 7 / 8 / 450e9, rel=1e-3)
    of_eight = step_seconds(size, launch, H100, work, 8, step_traffic(size, launch, 8))
    assert of_eight.traffic == pytest.approx(8 * step.traffic)


def epoch_of(lengths: list[int]) -> Epoch:
    """An epoch of one step of one row on each process."""
    tokens = np.array(lengths)
    return Epoch(1, 1, Work(tokens, np.zeros_like(tokens), 35 * len(tokens)), 1.0)


def test_spread_experts_move_a_tenth_of_the_bytes(size: ModelSize) -> None:
    """64 samples of the mean length of DMSC's, 147 tokens, on 8 GPUs."""
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=8, bytes_per_weight=2)
    schedule = Schedule(samples_per_step=64, max_tokens_per_gpu=8192)
    layouts = compare_layouts(
        size, launch, DEEPSPEED / "zero3.json", H100, epoch_of([147] * 64), schedule, recompute=True
    )
    assert layouts is not None and layouts["degree"] == 8
    figures = layouts["figures"]
    assert figures["zero3"]["gb_moved_per_step"] == pytest.approx(3 * 61.06 * 7 / 8, rel=1e-3)
    # The dense weights twice; 147 x 8 tokens a process, to 8 experts in 48 layers, there and back in three passes.
    by_hand = 2 * 2 * 1.541e9 + 3 * 2 * 147 * 8 * 48 * 8 * 2048 * 2
    assert figures["expert_parallel"]["gb_moved_per_step"] == pytest.approx(by_hand * 7 / 8 / 1e9, rel=1e-3)
    assert figures["zero3"]["gb_moved_per_step"] > 10 * figures["expert_parallel"]["gb_moved_per_step"]
    assert (layouts["advised"], layouts["reason"]) == ("expert_parallel", "because its steps are faster")


def test_the_layout_that_fits_or_moves_less_is_advised(size: ModelSize) -> None:
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=8, bytes_per_weight=2)
    schedule = Schedule(samples_per_step=64, max_tokens_per_gpu=8192)

    def advice(hardware: Hardware, lengths: list[int], launch: Launch = launch, file: str = "zero3") -> tuple[str, str]:
        layouts = compare_layouts(
            size, launch, DEEPSPEED / f"{file}.json", hardware, epoch_of(lengths), schedule, recompute=True
        )
        assert layouts is not None
        return layouts["advised"], layouts["reason"]

    faster, fits = "because its steps are faster", "because the other does not fit into memory"
    assert advice(H100, [147] * 64) == ("expert_parallel", faster)
    # Experts wait for their tokens: their exchange comes on top of computing, behind which ZeRO-3's traffic hides.
    assert advice(H100, [8192] * 8) == ("zero3", faster)
    spread = Launch.from_deepspeed(DEEPSPEED / "zero1.json", processes=8, bytes_per_weight=2, expert_parallel=2)
    assert advice(H100, [147] * 64, spread, "zero1") == ("zero3", fits)
    assert advice(H100.model_copy(update={"memory_gib": 67.0}), [147] * 64) == ("expert_parallel", fits)


def test_both_layouts_are_those_of_the_shipped_files(size: ModelSize) -> None:
    """Whichever of the two a stage has."""
    schedule, epoch = Schedule(samples_per_step=64, max_tokens_per_gpu=8192), epoch_of([147] * 64)
    figures = []
    for name, degree in (("zero3", 1), ("zero1", 8)):
        file = DEEPSPEED / f"{name}.json"
        launch = Launch.from_deepspeed(file, processes=8, bytes_per_weight=2, expert_parallel=degree)
        layouts = compare_layouts(size, launch, file, H100, epoch, schedule, recompute=True)
        assert layouts is not None
        figures.append(layouts["figures"])
    assert figures[0] == figures[1]


def test_a_step_waits_for_tokens_and_for_gradients_of_several_groups(size: ModelSize) -> None:
    launch = Launch.from_deepspeed(DEEPSPEED / "zero1.json", processes=16, bytes_per_weight=2, expert_parallel=8)
    step, traffic = epoch_step(size, launch, H100, epoch_of([147] * 64), recompute=True)
    # 147 x 4 tokens a process to 8 experts in 48 layers, there and back in three passes, 7 of 8 to others; an eighth of
    # the experts' gradients is summed over two groups.
    tokens = 3 * 2 * 147 * 4 * 48 * 8 * 2048 * 2 * 7 / 8
    gradients = 2 * size.expert_parameters / 8 * 2 * 1 / 2
    assert step.exchange == pytest.approx((tokens + gradients) / 450e9, rel=1e-6)
    assert step.traffic == pytest.approx(2 * 2 * 1.541e9 * 15 / 16 / 450e9, rel=1e-3)
    assert step.total == pytest.approx(step.compute + step.exchange)
    assert traffic.moved(launch) == pytest.approx((step.traffic + step.exchange) * 450e9)


def test_experts_of_other_structures_are_counted_too(tmp_path: Path) -> None:
    """Mixtral's configuration names the width of an expert as that of a layer without experts."""
    config = MixtralConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_local_experts=8,
        num_experts_per_tok=2, vocab_size=100,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    size = model_size(str(tmp_path), None)
    assert (size.experts, size.experts_per_token, size.expert_width, size.expert_layers) == (8, 2, 2 * 96, 2)
    assert size.expert_parameters == 2 * 8 * 3 * 64 * 96


def test_with_spread_experts_a_larger_degree_is_advised(size: ModelSize) -> None:
    schedule = Schedule(samples_per_step=64, max_tokens_per_gpu=8192)

    def advice(degree: int, memory_gib: float) -> str:
        launch = Launch.from_deepspeed(DEEPSPEED / "zero1.json", 8, 2, degree)
        hardware = H100.model_copy(update={"memory_gib": memory_gib})
        return nearest_that_fits(size, launch, hardware, schedule, True, 8192)

    assert advice(8, 79) == ""
    assert advice(2, 79) == "set expert_parallel: 8 and gradient_checkpointing: true"
    assert advice(8, 60) == "take 16 GPUs, set expert_parallel: 16 and gradient_checkpointing: true"
    assert advice(8, 5) == "no setting of these fits: take a smaller model"


def test_there_is_no_choice_of_layout_without_experts_or_with_one_process(size: ModelSize, tmp_path: Path) -> None:
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=8, bytes_per_weight=2)
    schedule = Schedule(samples_per_step=64, max_tokens_per_gpu=8192)
    Qwen3Config(hidden_size=64, num_hidden_layers=1).save_pretrained(tmp_path)
    for of, by in (
        (model_size(str(tmp_path), None), launch),
        (size, replace(launch, processes=1)),
        (replace(size, trained_parameters=1), launch),
        (size, replace(launch, zero_stage=2)),
        (size, replace(launch, offload_optimizer=True)),
    ):
        file, epoch = DEEPSPEED / "zero3.json", epoch_of([147] * 64)
        assert compare_layouts(of, by, file, H100, epoch, schedule, recompute=True) is None


def test_a_validation_gathers_weights_once(size: ModelSize) -> None:
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=8, bytes_per_weight=2)
    tokens = TokenTable(
        ids=np.zeros(8 * 64, dtype=np.int32),
        starts=np.arange(9) * 64,
        prompt_lengths=np.full(8, 60, dtype=np.int32),
        users=np.arange(8),
    )
    schedule = Schedule(samples_per_step=8, max_tokens_per_gpu=8192)
    seconds = validation_seconds(tokens, schedule, size, launch, H100)
    assert seconds == pytest.approx(61.06e9 * 7 / 8 / 450e9, rel=1e-3)


def test_the_host_bounds_a_step_of_few_tokens(size: ModelSize) -> None:
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=8, bytes_per_weight=2)
    hardware = H100.model_copy(update={"host_s_per_layer": 0.8 / 48})
    step = step_seconds(size, launch, hardware, 1e12, 3, step_traffic(size, launch, 3))
    assert step.bound_by == "host" and step.total == pytest.approx(2.4)


def test_gathered_experts_stay_where_activations_are_not_recomputed(size: ModelSize) -> None:
    """1.1 GiB for each of the 48 layers, besides what is gathered anyway, but no more than all weights."""
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=8, bytes_per_weight=2)
    kept = memory(size, launch, 1024, recompute=False).gathered - memory(size, launch, 1024, recompute=True).gathered
    assert kept == pytest.approx(48 * 128 * 3 * 2048 * 768 * 2 / GIB, rel=0.05)
    whole = replace(launch, zero_stage=2)
    assert memory(size, whole, 1024, recompute=False).gathered == memory(size, whole, 1024, recompute=True).gathered


@pytest.mark.parametrize("batch_by", ["sample", "user"])
def test_a_plan_counts_the_same_where_only_the_tokens_of_the_counted_steps_are_read(
    size: ModelSize, batch_by: Literal["sample", "user"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "COUNTED_STEPS", 3)
    monkeypatch.setattr(cost, "COUNTED_LARGER_STEPS", 2)
    rng = np.random.default_rng(0)
    rows = [
        {
            "interaction_id": n, "user_id": f"{n // 4:016x}", "prompt_length": 5, "text_start": 5,
            "input_ids": [n // 4, *rng.integers(1, 99, 8 + n % 30).tolist()], "n_history_dropped": 0,
            "n_context_dropped": 0, "is_cut_for_completion": False,
        }
        for n in range(400)
    ]  # fmt: skip
    path = tmp_path / "tokens.parquet"
    write_table(pl.DataFrame(rows, schema=schemas.TOKENS.columns), path, schemas.TOKENS)
    schedule = Schedule(samples_per_step=8, max_tokens_per_gpu=256, batch_by=batch_by)
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=2, bytes_per_weight=2)
    part = PartOfTokens.read_some(path, lambda users: counted_samples(users, schedule))
    assert len(part.samples) < len(part) == 400

    def counted(table: TokenTable) -> tuple[Epoch, int, dict[int, float]]:
        epoch = Epoch.of(table, schedule, 2)
        by_user = computed_tokens_by_user(epoch, table, schedule, 2)
        return epoch, by_user, larger_steps(table, schedule, size, launch, H100, recompute=True)

    (one, *ones), (other, *others) = counted(part), counted(TokenTable.read(path))
    assert (one.computed_tokens, one.micro_steps, ones) == (other.computed_tokens, other.micro_steps, others)


def test_one_process_gathers_nothing(size: ModelSize) -> None:
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=1, bytes_per_weight=2)
    assert memory(size, launch, 1024, recompute=True).gathered == 0


def test_adapters_of_all_experts_are_many(qwen3_30b: Path) -> None:
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = Lora(r=64, alpha=128, dropout=0.0, target_modules=names)
    assert model_size(str(qwen3_30b), lora).trained_parameters / 1e9 == pytest.approx(3.98, abs=0.01)


def test_work_that_is_shared_is_counted_once(size: ModelSize) -> None:
    def work(lengths: list[int], shared: list[int]) -> float:
        return flops(size, Work(np.array(lengths), np.array(shared), 0), recompute=True)

    assert work([900, 800], [0, 500]) == pytest.approx(work([900], [0]) + work([800], [0]) - work([500], [0]))


def test_the_work_is_what_torch_counts(tmp_path: Path) -> None:
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=False,
    )
    model = Qwen3ForCausalLM._from_config(config, attn_implementation="eager")  # torch does not count sdpa on a CPU
    config.save_pretrained(tmp_path)
    counter = FlopCounterMode(display=False)
    ids = torch.randint(0, 512, (1, 200))
    with counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    planned = flops(model_size(str(tmp_path), None), Work(np.array([200]), np.array([0]), 200), recompute=False)
    # Torch counts the whole square of attention, the plan the causal half; the plan recomputes the head once.
    head, square = 2 * 200 * 64 * 512, 3 * 2 * 3 * 4 * 32 * 200**2
    assert planned == pytest.approx(counter.get_total_flops() - square + head, rel=0.01)


@pytest.mark.parametrize(
    ("processes", "recompute", "max_tokens", "expected"),
    [
        (8, True, 8192, ""),
        (8, False, 8192, "set gradient_checkpointing: true"),
        (8, True, 65_536, "set gradient_checkpointing: true and max_tokens_per_gpu: 32768"),
        (4, True, 2048, "take a DeepSpeed file with optimizer offload and set gradient_checkpointing: true"),
    ],
)
def test_what_does_not_fit_gets_the_nearest_setting_that_does(
    size: ModelSize, processes: int, recompute: bool, max_tokens: int, expected: str
) -> None:
    launch = Launch.from_deepspeed(DEEPSPEED / "zero3.json", processes=processes, bytes_per_weight=2)
    schedule = Schedule(samples_per_step=64, max_tokens_per_gpu=max_tokens, batch_by="user")
    assert nearest_that_fits(size, launch, H100, schedule, recompute, longest=2048) == expected
