"""What a run did: from events to a table, JSON and a page."""

from __future__ import annotations

import itertools
import json
from html.parser import HTMLParser
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.context import RunEvent
from agents.report import ModelCall, RunReport
from agents.text_table import table
from agents.timeline_html import lanes_of
from tests.fakes.openai_server import REUSE

USAGE = {"prompt_tokens": 100, "completion_tokens": 5, "cached_tokens": 40}


def event(kind: str, at: float, node: str = "n", task: str = "t", **data: Any) -> RunEvent:
    return RunEvent(kind, node, task, at, {"agent": node, **data})


def call(
    number: int,
    begin: float,
    node: str = "n",
    task: str = "t",
    reuse: Any = None,
    usage: Any = USAGE,
) -> list[RunEvent]:
    """A request: first token after one second, the last after three."""
    return [
        event("llm_started", begin, node, task, call=number, model="m", turn=1),
        event("llm_first_token", begin + 1, node, task, call=number),
        event(
            "llm_ended",
            begin + 3,
            node,
            task,
            call=number,
            finish_reason="stop",
            usage=usage,
            reuse=reuse,
        ),
    ]


RUN = [
    event("node_started", 10.0),
    *call(1, 10.0, reuse=REUSE),
    event("tool_started", 13.0, call="c", tool="look"),
    event("tool_ended", 13.5, call="c", tool="look", error=None),
    *call(2, 13.5),
    event("node_ended", 16.5),
]


def test_times_and_tokens_of_each_request_are_told() -> None:
    report = RunReport.of(reversed(RUN))
    first, second = report.calls
    assert (first.started, first.to_first_token, first.decoding) == (0.0, 1.0, 2.0)
    assert (first.prefix_tokens, first.reused_tokens, first.new_tokens) == (20, 60, 20)
    assert (second.prefix_tokens, second.reused_tokens, second.new_tokens) == (40, 0, 60)
    assert report.seconds == 6.5
    assert [(use.tool, use.started, use.ended) for use in report.tools] == [("look", 3.0, 3.5)]
    assert [(node.started, node.ended) for node in report.nodes] == [(0.0, 6.5)]


def test_prefill_compute_counts_what_was_computed_with_and_without_a_report() -> None:
    """Half of what stood behind the prefix of 20; and all that was not cached."""
    report = RunReport.of(RUN)
    assert [one.prefill_compute for one in report.calls] == [40.0, 60.0]
    assert report.prefill_compute == 100.0
    assert report.prompt_tokens == 200


def test_what_has_not_ended_or_failed_says_so() -> None:
    events = [
        event("node_started", 0.0),
        event("node_started", 0.5),  # a retry
        event("llm_started", 1.0, call=1, model="m", turn=1),
        event("llm_ended", 2.0, call=1, error="EndpointDown"),
        event("tool_started", 2.0, call="c", tool="look"),
        event("node_failed", 3.0, error="NodeFailed"),
        event("llm_started", 4.0, "other", "u", call=2, model="m", turn=1),
    ]
    report = RunReport.of(events)
    assert [one.error for one in report.calls] == ["EndpointDown", "not ended"]
    assert report.tools[0].error == "not ended"
    assert [(n.started, n.ended, n.error) for n in report.nodes] == [(0.0, 3.0, "NodeFailed")]
    assert "EndpointDown" in report.table()


def test_without_events_there_is_an_empty_report() -> None:
    report = RunReport.of([])
    assert report.seconds == 0
    assert "all" in report.table()
    assert "<svg" in report.to_html()


def test_the_table_adds_up() -> None:
    lines = RunReport.of(RUN).table().splitlines()
    assert lines[0].split()[:4] == ["node", "agent", "prompt", "prefix"]
    assert lines[3].split()[:7] == ["all", "200", "60", "60", "10", "80", "100"]
    assert lines[-1].split() == ["n", "look", "500"]


def test_json_holds_the_same_numbers() -> None:
    read = json.loads(RunReport.of(RUN).to_json())
    assert read["prefill_compute"] == 100.0
    assert read["calls"][0]["reused_tokens"] == 60
    assert read["tools"][0]["tool"] == "look"


class Page(HTMLParser):
    """What stands in a page: every tag with its attributes, and the texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def bars(self, kind: str) -> list[float]:
        """Widths of the bars of one kind."""
        bars = [a for tag, a in self.tags if tag == "rect" and a["class"] == kind]
        return [float(bar["width"] or 0) for bar in bars]


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    page = Page(RunReport.of(RUN).to_html())
    second = 960 / 6.5
    widths = {
        kind: [round(w / second, 2) for w in page.bars(kind)]
        for kind in ("prefix", "loaded", "recomputed", "new", "decode", "tool", "node")
    }
    assert widths == {
        "prefix": [0.2, 0.4],
        "loaded": [0.5],
        "recomputed": [0.1],
        "new": [0.2, 0.6],
        "decode": [2.0, 2.0],
        "tool": [0.5],
        "node": [6.5],
    }


EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>&amp;'


def test_texts_of_a_run_cannot_become_markup() -> None:
    reuse = {**REUSE, "mode": EVIL, "fallback": EVIL}
    events = [
        event("node_started", 0.0, EVIL, EVIL),
        *call(1, 0.0, EVIL, EVIL, reuse),
        event("tool_started", 3.0, EVIL, EVIL, call="c", tool=EVIL),
        event("tool_ended", 4.0, EVIL, EVIL, call="c", tool=EVIL, error=EVIL),
        event("node_failed", 5.0, EVIL, EVIL, error=EVIL),
    ]
    page = Page(RunReport.of(events).to_html())
    assert not {"script", "img", "a", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert any(EVIL in text for text in page.texts), "it is there, as text"


def test_the_page_loads_and_runs_nothing(tmp_path: Any) -> None:
    path = tmp_path / "run.html"
    text = RunReport.of(RUN).to_html(path)
    assert path.read_text() == text
    page = Page(text)
    names = {name for _, attributes in page.tags for name in attributes}
    assert not names & {"src", "href", "onload", "onclick", "style"}
    assert "url(" not in text
    assert "@import" not in text


spans = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=9
)


@settings(deadline=None, max_examples=60)
@given(spans)
def test_executions_of_one_lane_never_overlap(found: list[tuple[str, int, int]]) -> None:
    events = []
    for number, (node, begin, length) in enumerate(found):
        task = f"t{number}"
        events += [
            event("node_started", begin, node, task),
            event("node_ended", begin + length, node, task),
        ]
    report = RunReport.of(events)
    times = {node.task_id: (node.started, node.ended) for node in report.nodes}
    lanes = lanes_of(report)
    assert sorted(task for lane in lanes for task in lane.tasks) == sorted(times)
    for lane in lanes:
        ordered = sorted(times[task] for task in lane.tasks)
        for (_, end), (begin, _) in itertools.pairwise(ordered):
            assert end <= begin


def test_a_table_is_safe_for_a_terminal() -> None:
    text = table([("name", "n"), ("\x1b[31mred\nline", "1")])
    assert text.splitlines() == ["name           n", " [31mred line  1"]


def test_a_call_without_a_first_token_waited_all_the_time() -> None:
    one = ModelCall("n", "t", "a", "m", 1, started=1.0, first_token=None, ended=4.0)
    assert (one.to_first_token, one.decoding) == (3.0, 0.0)
