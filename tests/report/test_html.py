"""The page: complete, self-contained, and safe whatever names a model brings."""

from __future__ import annotations

import base64
import hashlib
import math
import time
from html.parser import HTMLParser

import pytest

from compress.report.html import render
from compress.report.schema import FrontierPoint, Plan, Report

VOID = {"meta", "link", "input", "br", "img"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}\x1b[2J\u202e"
SHOWN = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}\\x1b[2J\\u202e"


class Page(HTMLParser):
    """The elements of a page with their attributes, its text, and whether all tags are closed."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, str] = {"script": "", "style": ""}
        self.text = ""
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.content:
            self.content[self._open[-1]] += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_story_is_told(report: Report, plan: Plan) -> None:
    text = Page(render(report, plan)).text
    for words in (
        report.outcome,
        "0.161 ms (0.159-0.170)",
        "1.67x as fast",
        "3.48x smaller",
        "-0.37 % (allowed: 0.9346)",
        report.command,
        report.model.sha256,
        report.warnings[0],
        "12.5 s",
        *(candidate.verdict for candidate in report.candidates),
        *(layer.name for layer in plan.layers),
    ):
        assert words in text


def test_structures_that_were_tried_are_told(
    restructured: tuple[Report, Plan], report: Report, plan: Plan
) -> None:
    text = Page(render(*restructured)).text
    for words in (
        "Structures that were tried",
        "2 min 10 s of training",
        "2 layers to 1",
        "0.128",
        "0.0336",
        "0.180 ms predicted",
        "300 of 1,000",
        "trained in full",
        "merge:5x5 int8",
        "channels of node_conv_4",
    ):
        assert words in text
    assert "Structures that were tried" not in Page(render(report, plan)).text


def test_the_picture_marks_what_was_shipped(report: Report, plan: Plan) -> None:
    circles = Page(render(report, plan)).all("circle")
    kinds = [circle["class"] for circle in circles]
    assert kinds.count("optimal") == 3
    assert kinds.count("candidate") == 2
    assert kinds.count("mark-shipped") == 2, "the point of the frontier, and what was built of it"


def test_nothing_is_loaded_from_elsewhere(report: Report, plan: Plan) -> None:
    content = render(report, plan)
    page = Page(content)
    for tag, attributes in page.elements:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "#").startswith(("#", "data:,")), tag
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
    assert "http" not in page.content["style"] + page.content["script"]
    assert "@import" not in page.content["style"]
    assert "url(" not in page.content["style"]


def test_the_policy_allows_the_pages_own_script_and_style_only(report: Report, plan: Plan) -> None:
    page = Page(render(report, plan))
    policy = next(
        meta["content"] or ""
        for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        digest = hashlib.sha256(page.content[kind].encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_names_are_text_whatever_they_contain(restructured: tuple[Report, Plan]) -> None:
    report, plan = restructured
    benign = Page(render(report, plan))
    hostile_report = report.model_copy(
        update={
            "model": report.model.model_copy(
                update={"source": HOSTILE, "inputs": [HOSTILE], "outputs": [HOSTILE]}
            ),
            "outcome": HOSTILE,
            "command": HOSTILE,
            "target": HOSTILE,
            "device": {"cpu": HOSTILE, "isa": "", "threads": ""},
            "budget": {HOSTILE: HOSTILE},
            "warnings": [HOSTILE],
            "candidates": [
                c.model_copy(update={"name": HOSTILE, "verdict": HOSTILE})
                for c in report.candidates
            ],
        }
    )
    changed = plan.recoveries[0].changes[0].model_copy(update={"layers": [HOSTILE, HOSTILE]})
    hostile_plan = plan.model_copy(
        update={
            "layers": [
                x.model_copy(
                    update={"name": HOSTILE, "kind": HOSTILE, "shape": HOSTILE, "why": HOSTILE}
                )
                for x in plan.layers
            ],
            "recoveries": [
                plan.recoveries[0].model_copy(update={"name": HOSTILE, "changes": [changed]}),
                *plan.recoveries[1:],
            ],
        }
    )
    page = Page(render(hostile_report, hostile_plan))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in benign.elements]
    assert page.content == benign.content
    assert page.text.count(SHOWN) > 20
    assert "\x1b" not in page.text


def test_it_is_reproducible(report: Report, plan: Plan) -> None:
    assert render(report, plan) == render(report, plan)


def test_hundreds_of_layers_stay_small_and_quick(report: Report, plan: Plan) -> None:
    layers = [
        plan.layers[i % 7].model_copy(update={"name": f"/encoder/layer.{i}/attention/MatMul_{i}"})
        for i in range(600)
    ]
    started = time.perf_counter()
    content = render(report, plan.model_copy(update={"layers": layers}))
    assert time.perf_counter() - started < 30  # a page that grows with the square takes minutes
    assert len(content.encode()) < 2_000_000


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_run_that_found_nothing_has_a_page_too(report: Report, plan: Plan, value: float) -> None:
    bare = report.before.model_copy(update={"latency": None, "quality": None, "forms": {}})
    empty = report.model_copy(
        update={
            "before": bare,
            "after": bare,
            "candidates": [bare],
            "budget": {},
            "warnings": [],
            "steps": [],
            "device": {},
            "exit_code": 1,
            "peak_memory_bytes": None,
        }
    )
    solver = plan.solver.model_copy(update={"status": "infeasible", "value_us": value})
    nothing = plan.model_copy(update={"layers": [], "frontier": [], "solver": solver})
    page = Page(render(empty, nothing))
    assert report.outcome in page.text
    assert not page.all("svg")

    point = FrontierPoint(latency_us=value, distortion=value, bytes=0)
    odd = nothing.model_copy(update={"frontier": [point], "layers": plan.layers})
    assert Page(render(empty, odd)).all("table")
