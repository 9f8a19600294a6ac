"""What README and docs say can be checked without running it: links, commands, names, code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from deployments.settings import CONFIG_VARIABLE, Settings, describe, load_settings
from raysparsex.config import ReuseParams, ReuseSettings, SelectorName, parse_request
from raysparsex.errors import InvalidRequest

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("training/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
README = ROOT / "README.md"

every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """The text without fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Heading anchors as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def relative_links(page: Path) -> Iterator[tuple[Path, str]]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path if path else page), anchor


def first_table_column(page: Path, before: str, after: str) -> set[str]:
    """Names in backticks of the first column, between two pieces of text."""
    part = page.read_text().split(before, 1)[1].split(after, 1)[0]
    return {cell for row in re.findall(r"^\|(.*?)\|", part, re.M) for cell in _ticked(row)}


def _ticked(text: str) -> Iterable[str]:
    return re.findall(r"`([\w.]+)`", text)


@every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target, anchor in relative_links(page):
        assert target.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {target.name}#{anchor}"


@every_page
def test_every_make_command_is_a_target(page: Path) -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    targets = {t for line in lines if (m := re.match(r"([\w ]+):", line)) for t in m[1].split()}
    code = "\n".join([*blocks(page, "sh"), *re.findall(r"`([^`\n]+)`", prose(page))])
    named = [
        name for match in re.findall(r"\bmake((?: [a-z]+\b)+)", code) for name in match.split()
    ]
    assert set(named) <= targets, f"{page.name} names {set(named) - targets}"


@every_page
def test_every_variable_is_a_setting(page: Path) -> None:
    known = {CONFIG_VARIABLE, *(row.variable for row in describe())}
    named = set(re.findall(r"\bRAYSPARSEX_[A-Z0-9_]+", page.read_text()))
    assert named <= known, f"{page.name} names {named - known}"


@every_page
def test_every_path_and_test_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
    top = "raysparsex|deployments|examples|training|benchmarks|tests|docs"
    for path in re.findall(rf"`((?:{top})/[\w/.\-]+?)/?`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


@every_page
def test_python_blocks_compile(page: Path) -> None:
    for number, block in enumerate(blocks(page, "python")):
        compile(block, f"{page.name} block {number}", "exec")


@every_page
def test_json_in_blocks_and_on_command_lines_parses(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)
    for text in re.findall(r"'(\{.*?\})'", "\n".join(blocks(page, "sh")), re.DOTALL):
        json.loads(text)


@every_page
def test_yaml_blocks_are_settings(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        file = tmp_path / "settings.yaml"
        file.write_text(block)
        assert load_settings(file, environment={}) != Settings(), yaml.safe_load(block)


@every_page
def test_variables_on_command_lines_have_values_that_are_accepted(page: Path) -> None:
    for line in "\n".join(blocks(page, "sh")).splitlines():
        given = dict(re.findall(r"\b(RAYSPARSEX_\w+)=(\S+)", line))
        given.pop(CONFIG_VARIABLE, None)
        load_settings(environment=given)


def test_the_request_fields_of_the_readme_are_those_of_the_code() -> None:
    documented = first_table_column(README, "**Request**", "`cache_salt`, a field")
    assert documented == set(ReuseParams.model_fields)


def test_the_response_fields_of_the_readme_are_those_of_the_code() -> None:
    report = (ROOT / "raysparsex/vllm_plugin/reuse_report.py").read_text()
    fields = re.findall(
        r"^    (\w+): \S", report.split("class ReuseReport")[1].split("def ")[0], re.M
    )
    documented = first_table_column(README, "**Response**", "`usage.prompt_tokens_details")
    assert documented == set(fields)


@every_page
def test_requests_in_examples_are_accepted(page: Path) -> None:
    code = "\n".join([*blocks(page, "sh"), *blocks(page, "python"), *blocks(page, "json")])
    for params in re.findall(r'"kv_transfer_params": (\{[^{}]*\})', code):
        parse_request(json.loads(params))


def test_plugin_settings_in_the_readme_are_accepted() -> None:
    found = re.findall(
        r'"kv_connector_extra_config": (\{.*\}),\n', "".join(blocks(README, "python"))
    )
    assert found
    for text in found:
        ReuseSettings.model_validate(json.loads(text))


def test_the_selectors_of_the_documents_are_those_of_the_code() -> None:
    page = ROOT / "docs/selectors.md"
    assert first_table_column(page, "## Rules", "Of the field's methods") == set(SelectorName)
    row = next(line for line in README.read_text().splitlines() if line.startswith("| `selector`"))
    assert set(re.findall(r'"(\w+)"', row)) == set(SelectorName)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| `(\w+)` \| (.+?) \| (.+) \|$", page, re.MULTILINE)
    expected = [(row.key, row.variable, _shown(row.default), row.meaning) for row in describe()]
    assert rows == expected


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"  # as YAML writes it
    return "unset" if default is None else f"`{getattr(default, 'value', default)}`"


def test_the_metrics_of_the_documents_are_those_of_the_code() -> None:
    code = (ROOT / "raysparsex/vllm_plugin/stats.py").read_text()
    declared = set(re.findall(r'^    "(\w+)": ', code.split("class ReuseStats")[0], re.MULTILINE))
    page = (ROOT / "docs/http.md").read_text()
    named = re.findall(r"`(?:ray_vllm_raysparsex|\.\.\.)_(\w+?)(?:_total)?`", page)
    assert set(named) == declared


def test_the_error_of_the_documents_is_what_a_client_gets() -> None:
    (example,) = blocks(ROOT / "docs/http.md", "json")
    with pytest.raises(InvalidRequest) as refused:
        parse_request({"reuse": "maybe"})
    assert json.loads(example)["error"]["message"] == str(refused.value)


def test_the_readme_begins_with_the_two_commands() -> None:
    commands = [line.split("#")[0].strip() for line in blocks(README, "sh")[0].splitlines()]
    assert commands == ["make serve", "make test"]


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License")
    assert "END OF TERMS AND CONDITIONS" in text
