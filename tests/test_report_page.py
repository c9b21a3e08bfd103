"""The report in a real browser: what moves, moves; words that mean harm stay words; nothing leaves the page."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from facepipe import pipeline
from facepipe.report import write_report
from facepipe.workspace import read_json, write_json

EVIL = "<img src=x onerror=hacked=1><!--<script>&'"


@pytest.fixture(scope="module")
def long_run(run_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run with a row of scores every second frame, two clips, and ill-meant words in its ledger."""
    out = tmp_path_factory.mktemp("long") / "RUN"
    shutil.copytree(run_folder.out, out)
    manifest = read_json(out / "manifest.json")
    manifest["ledger"]["source"] = {"person": EVIL, "consent": f"</script>{EVIL}"}
    write_json(out / "manifest.json", manifest)
    scores = read_json(out / "scores.json")
    scores["worst"] = [
        {"clip": "woman", "frame": frame, "seconds": frame / 25, "why": EVIL, "badness": 1.0, "values": {}}
        for frame in (11, 3)
    ]
    write_json(out / "scores.json", scores)
    history = [
        {"step": step, "seconds": step, "psnr_source": 20 + step / 100, "quality": step} for step in (100, 200, 300)
    ]
    write_json(out / "model" / "history.json", history)
    write_report(out)
    return out


def test_words_that_mean_harm_stay_words(long_run: Path, open_page: Any) -> None:
    shown = open_page(long_run / "report.html").page
    assert shown.evaluate("typeof hacked") == "undefined"
    assert shown.locator("main img[src=x]").count() == 0
    assert shown.locator("#overview table td").first.inner_text() == EVIL
    assert shown.locator(".card-why").first.inner_text() == EVIL


def test_the_slider_follows_the_mouse_and_the_keys(long_run: Path, open_page: Any) -> None:
    shown = open_page(long_run / "report.html").page
    look, slider = shown.locator(".look"), shown.locator(".look input")
    look.scroll_into_view_if_needed()
    box = look.bounding_box()
    right = shown.locator(".look .right")
    assert right.evaluate("image => image.naturalWidth") > 200

    def hidden() -> float:
        return float(re.findall(r"([\d.]+)%", right.evaluate("image => getComputedStyle(image).clipPath"))[0])

    assert hidden() == pytest.approx(50)
    shown.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    shown.mouse.down()
    shown.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2, steps=5)
    shown.mouse.up()
    assert hidden() == pytest.approx(25, abs=1.5)
    handle = shown.locator(".look .handle").bounding_box()
    assert handle["x"] + handle["width"] / 2 == pytest.approx(box["x"] + box["width"] * 0.25, abs=box["width"] * 0.015)
    slider.focus()
    before = hidden()
    shown.keyboard.press("ArrowRight")
    assert hidden() == pytest.approx(before + 1)
    shown.keyboard.press("Home")
    assert hidden() == 0
    assert "0 % Target" in slider.get_attribute("aria-valuetext")


def test_frames_are_chosen_with_mouse_and_keys(long_run: Path, open_page: Any) -> None:
    shown = open_page(long_run / "report.html").page
    film, image = shown.locator(".film button"), shown.locator(".look .right")
    first = image.get_attribute("src")
    film.nth(2).click()
    assert image.get_attribute("src") != first
    assert film.nth(2).get_attribute("aria-checked") == "true"
    number_shown = film.nth(2).inner_text().strip()
    assert f"frame {number_shown} " in shown.locator(".where").inner_text()
    shown.keyboard.press("ArrowRight")
    assert film.nth(3).get_attribute("aria-checked") == "true"
    assert film.nth(3).evaluate("button => button === document.activeElement")
    shown.get_by_role("radio", name="Face", exact=True).click()
    assert (
        image.evaluate("async image => { await image.decode(); return image.naturalWidth / image.naturalHeight }") == 1
    )


def test_tables_sort_both_ways(long_run: Path, open_page: Any) -> None:
    shown = open_page(long_run / "report.html").page
    table = shown.locator("#numbers table").first

    def values() -> list[float]:
        return [
            float(v)
            for v in table.locator("tbody tr td:nth-child(2)").evaluate_all("all => all.map(c => c.dataset.value)")
        ]

    before = values()
    assert len(before) > 3
    head = table.get_by_role("button", name="Value")
    head.click()
    assert values() == sorted(before)
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    head.press("Enter")
    assert values() == sorted(before, reverse=True)
    table.get_by_role("button", name="Measure").click()
    names = table.locator("tbody th").all_inner_texts()
    assert names == sorted(names, key=str.lower)
    assert table.locator("th[aria-sort]").count() == 1


def test_curves_and_frames_are_linked(long_run: Path, open_page: Any) -> None:
    shown = open_page(long_run / "report.html").page
    panels, where = shown.locator("#curves .panels"), shown.locator(".moment-where")
    first = shown.locator("#curves .panel > svg").first
    first.scroll_into_view_if_needed()
    drawing = first.bounding_box()
    shown.mouse.move(drawing["x"] + drawing["width"] - 7, drawing["y"] + 40)
    assert where.inner_text().startswith("Frame 15")
    last = shown.locator(".moment-images img").nth(1).get_attribute("src")
    shown.mouse.move(drawing["x"] + 47, drawing["y"] + 40)
    assert where.inner_text().startswith("Frame 0")
    assert shown.locator(".moment-images img").nth(1).get_attribute("src") != last
    cursors = shown.locator("#curves line.cursor").evaluate_all("all => all.map(line => line.getAttribute('x1'))")
    assert len(set(cursors)) == 1
    assert len(cursors) > 2
    shown.mouse.click(drawing["x"] + 47, drawing["y"] + 40)
    shown.mouse.move(5, 5)
    assert where.inner_text().startswith("Frame 0")
    panels.focus()
    for key, frame in (
        ("ArrowRight", "1"),
        ("ArrowRight", "2"),
        ("ArrowLeft", "1"),
        ("End", "15"),
        ("Home", "0"),
        ("PageUp", "15"),
    ):
        shown.keyboard.press(key)
        assert panels.get_attribute("aria-valuenow") == frame, key
    assert "frame 15" in panels.get_attribute("aria-valuetext")


def test_a_worst_frame_leads_to_its_moment(long_run: Path, open_page: Any) -> None:
    shown = open_page(long_run / "report.html").page
    shown.locator(".card").first.click()
    panels = shown.locator("#curves .panels")
    assert panels.get_attribute("aria-valuenow") == "11"
    assert panels.evaluate("element => element === document.activeElement")
    assert shown.locator("#time h2").bounding_box()["y"] < 300


def test_values_beside_the_curves_are_those_of_the_table(long_run: Path, open_page: Any) -> None:
    shown = open_page(long_run / "report.html").page
    table = pq.read_table(long_run / "scores.parquet", columns=["frame", "outside_psnr"]).to_pydict()
    at = dict(zip(table["frame"], table["outside_psnr"], strict=True))
    shown.locator("#curves .panels").focus()
    shown.keyboard.press("Home")
    row = shown.locator(".moment tr", has_text="PSNR").locator("td").nth(1)
    for frame in range(4):
        assert float(row.inner_text()) == pytest.approx(at[frame], abs=0.006)
        shown.keyboard.press("ArrowRight")


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark(long_run: Path, open_page: Any, dark: bool) -> None:
    shown = open_page(long_run / "report.html", dark=dark).page

    def light_of(what: str) -> float:
        color = shown.evaluate(f"getComputedStyle(document.body).{what}")
        return float(np.mean([float(part) for part in re.findall(r"[\d.]+", color)][:3]))

    button = shown.locator("#theme")
    assert button.inner_text() == "Theme: auto"
    assert (light_of("backgroundColor") < light_of("color")) == dark
    button.click()
    assert light_of("backgroundColor") > 200
    button.press("Enter")
    assert button.inner_text() == "Theme: dark"
    assert light_of("backgroundColor") < 60
    shown.emulate_media(media="print")
    assert light_of("backgroundColor") > 200
    assert not shown.locator(".bar").is_visible()


@pytest.mark.parametrize("width", [360, 620, 800, 1600])
def test_no_width_makes_the_page_scroll_sideways(long_run: Path, open_page: Any, width: int) -> None:
    shown = open_page(long_run / "report.html", width=width).page
    assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_has_a_name_for_those_who_listen(long_run: Path, open_page: Any) -> None:
    shown = open_page(long_run / "report.html").page
    nameless = shown.evaluate(
        """[...document.querySelectorAll('button, input, select, [role=slider], [role=radiogroup], svg[role=img]')]
        .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))
        .map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert shown.locator("img:not([alt])").count() == 0
    levels = [int(name[1]) for name in shown.locator("h1, h2, h3").evaluate_all("all => all.map(h => h.tagName)")]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    contrasts = shown.evaluate(_CONTRAST)
    assert contrasts
    assert min(contrasts.values()) >= 4.5, contrasts


_CONTRAST = """(() => {
  const channel = (v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
  const light = (c) => {
    const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(channel);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const found = {};
  for (const kind of ['.lead', '.standfirst', '.tile-meaning', '.absent', '.small', 'td', '.where', '.bar nav a']) {
    const element = document.querySelector(kind);
    if (!element) continue;
    const ink = light(getComputedStyle(element).color);
    found[kind] = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
  }
  return found;
})()"""


def test_training_curves_are_drawn(long_run: Path, open_page: Any) -> None:
    shown = open_page(long_run / "report.html").page
    assert shown.locator("#training-curves .panel").count() == 2
    assert shown.locator("#training-curves .dot").count() == 6
    assert "3 validations" in shown.locator("#training .lead").inner_text()


def test_it_prints(long_run: Path, open_page: Any, tmp_path: Path) -> None:
    shown = open_page(long_run / "report.html").page
    pdf = shown.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 30
    shown.emulate_media(media="print")
    boxes = [shown.locator(f".look .{side}").bounding_box() for side in ("left", "right")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


def test_a_clip_with_an_ill_meant_name(
    short_clips: Any, quick: tuple[str, ...], tmp_path: Path, open_page: Any
) -> None:
    name = "<script>hacked=1<!--&\"'{{body}}"
    (tmp_path / "clips").mkdir()
    shutil.copy(short_clips.woman / "woman.mp4", tmp_path / "clips" / f"{name}.mp4")
    config = pipeline.resolve(None, quick, source=short_clips.man, target=tmp_path / "clips", out=tmp_path / "RUN")
    result = pipeline.run(config)
    assert result.report is not None
    shown = open_page(result.report).page
    assert shown.locator("#method td", has_text=f"{name}.mp4").count() == 1
    assert shown.evaluate("typeof hacked") == "undefined"
    assert shown.locator(".film button").count() > 3
