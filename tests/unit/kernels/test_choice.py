"""The choice of attention rests on figures: none, and always on a CPU, means the engine's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from raysparsex.errors import InvalidConfig
from raysparsex.kernels.choice import (
    ADVANTAGE,
    Figure,
    Shape,
    Wish,
    Work,
    choose,
    read_figures,
    write_figures,
)

GPU = Shape("A GPU", heads=32, kv_heads=8, head_size=128, dtype="bfloat16", block_size=16)
WORK = Work(tokens=1000, runs=400, keys=8000)


def figure(scattered: float = 1.0, engine: float = 2.0, **work: int) -> Figure:
    return Figure(GPU, replace(WORK, **work), scattered, engine, "theirs")


@pytest.mark.parametrize("wish", get_args(Wish))
def test_a_cpu_always_gets_the_engines(wish: Wish) -> None:
    on_cpu = replace(GPU, device="cpu")
    measured = replace(figure(), shape=on_cpu)
    assert choose(wish, on_cpu, WORK, [measured]).backend == "engine"


@pytest.mark.parametrize("wish", ["engine", "scattered"])
def test_a_wish_is_followed_whatever_the_figures_say(wish: Wish) -> None:
    against = figure(2.0, 1.0) if wish == "scattered" else figure(1.0, 2.0)
    assert choose(wish, GPU, WORK, [against]).backend == wish


def test_without_figures_it_is_the_engines() -> None:
    choice = choose("measured", GPU, WORK, [])
    assert (choice.backend, choice.figure) == ("engine", None)


def test_the_faster_one_is_taken_and_the_figure_named() -> None:
    faster, slower = figure(1.0, 2.0), figure(2.0, 1.0)
    assert choose("measured", GPU, WORK, [faster]).backend == "scattered"
    assert choose("measured", GPU, WORK, [faster]).figure is faster
    assert "2.00 times" in choose("measured", GPU, WORK, [faster]).reason
    assert choose("measured", GPU, WORK, [slower]).backend == "engine"


def test_an_advantage_within_the_noise_is_none() -> None:
    assert choose("measured", GPU, WORK, [figure(1.0, ADVANTAGE - 0.01)]).backend == "engine"
    assert choose("measured", GPU, WORK, [figure(1.0, ADVANTAGE + 0.01)]).backend == "scattered"


def test_the_figure_of_the_most_similar_work_decides() -> None:
    figures = [figure(1.0, 2.0, runs=700), figure(2.0, 1.0, runs=450), figure(1.0, 2.0, keys=5000)]
    assert choose("measured", GPU, WORK, figures).figure is figures[1]


@pytest.mark.parametrize(
    "far", [{"tokens": 2001}, {"tokens": 499}, {"runs": 1}, {"keys": 32_000}, {"keys": 3000}]
)
def test_figures_of_quite_other_work_say_nothing(far: dict[str, int]) -> None:
    assert choose("measured", GPU, WORK, [figure(1.0, 9.0, **far)]).figure is None


@pytest.mark.parametrize(
    "other",
    [
        {"device": "Another"},
        {"heads": 16},
        {"kv_heads": 4},
        {"head_size": 64},
        {"dtype": "float16"},
        {"block_size": 32},
    ],
)
def test_figures_of_another_device_or_model_say_nothing(other: dict[str, str]) -> None:
    elsewhere = replace(GPU, **other)  # type: ignore[arg-type]
    assert choose("measured", elsewhere, WORK, [figure()]).figure is None


def test_figures_survive_their_file(tmp_path: Path) -> None:
    figures = (figure(), figure(3.0, 1.0, runs=1))
    write_figures(tmp_path / "figures.json", figures, {"matrix_rate": 1e14})
    assert read_figures(tmp_path / "figures.json") == figures
    assert json.loads((tmp_path / "figures.json").read_text())["matrix_rate"] == 1e14


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"figures": [1]}',
        '{"figures": [{"shape": {}}]}',
        '{"figures": [{"shape": {}, "work": {}, "strange": 1}]}',
    ],
)
def test_a_file_of_something_else_is_refused_with_what_it_should_be(
    text: str, tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=r"benchmarks\.kernels --json"):
        read_figures(file)


def test_a_missing_file_of_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="absent"):
        read_figures(tmp_path / "absent.json")


def test_a_time_of_zero_is_refused(tmp_path: Path) -> None:
    write_figures(tmp_path / "figures.json", [figure(0.0)], {})
    with pytest.raises(InvalidConfig, match="zero"):
        read_figures(tmp_path / "figures.json")
