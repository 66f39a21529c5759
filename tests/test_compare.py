"""`d2s compare`, as a user types it."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import d2s, mask, photo

from d2s_cli.errors import D2SError

BOX = np.s_[30:60, 40:70]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A photo, a result that differs in the whole hole and by 3 levels in two other pixels, and
    the mask."""
    before = photo(tmp_path / "a.png")
    picture = np.asarray(Image.open(before)).copy()
    picture[BOX] ^= 128
    picture[0, :2, 1] ^= 3
    Image.fromarray(picture).save(tmp_path / "a_d2s.png")
    return before, tmp_path / "a_d2s.png", mask(tmp_path / "m.png")


def report(*words: object) -> dict[str, object]:
    result = d2s("compare", *words, "--json")
    assert result.exit_code in (0, 7)
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    (entry,) = document["results"]
    return dict(entry)


def test_pixels_are_counted_outside_and_inside(pair: tuple[Path, Path, Path]) -> None:
    before, after, hole = pair
    entry = report(before, after, "-m", hole)
    picture = np.asarray(Image.open(before)).astype(int)
    largest = np.abs(picture[0, :2, 1] - (picture[0, :2, 1] ^ 3)).max()
    assert (entry["changed_outside"], entry["changed_inside"]) == (2, 900)
    assert (entry["largest_outside"], entry["largest_inside"]) == (largest, 128)
    without = report(before, after)
    assert (without["changed_outside"], without["mask"]) == (902, None)
    text = d2s("compare", before, after, "-m", hole).stdout
    assert f"2 pixels changed outside the hole, by at most {largest} of 255; 900 inside" in text
    assert sorted(p.name for p in before.parent.iterdir()) == ["a.png", "a_d2s.png", "m.png"]


def test_a_changed_pixel_fails_the_check_unless_tolerated(pair: tuple[Path, Path, Path]) -> None:
    before, after, hole = pair
    command = ("compare", before, after, "-m", hole, "--fail-if-changed")
    assert d2s(*command).exit_code == 7
    assert d2s(*command, "--tolerance", 3).exit_code == 0
    assert d2s(*command[:-1]).exit_code == 0
    assert d2s("compare", before, before, "--fail-if-changed").exit_code == 0


def test_the_mask_beside_the_picture_and_its_polarity_are_used(
    pair: tuple[Path, Path, Path],
) -> None:
    before, after, hole = pair
    Image.fromarray(255 - np.asarray(Image.open(hole))).save(before.with_name("a_mask.png"))
    result = d2s("compare", before, after, "--polarity", "auto")
    assert "2 pixels changed outside" in result.stdout
    assert "black is taken as the hole" in result.stderr


def test_transparency_counts(tmp_path: Path) -> None:
    picture = np.full((20, 30, 4), 255, np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    picture[5, 5, 3] = 250
    Image.fromarray(picture).save(tmp_path / "b.png")
    entry = report(tmp_path / "a.png", tmp_path / "b.png")
    assert (entry["changed_outside"], entry["largest_outside"]) == (1, 5)


def test_sixteen_bits_are_compared_at_sixteen(tmp_path: Path) -> None:
    deep = np.full((20, 30), 1000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    deep[3, 4] = 1001
    Image.fromarray(deep).save(tmp_path / "b.png")
    entry = report(tmp_path / "a.png", tmp_path / "b.png")
    assert (entry["changed_outside"], entry["largest_outside"], entry["peak"]) == (1, 1, 65535)


def test_the_sheet_holds_before_after_and_difference(pair: tuple[Path, Path, Path]) -> None:
    before, after, hole = pair
    target = before.with_name("sheet.png")
    assert d2s("compare", before, after, "-m", hole, "-o", target).exit_code == 0
    sheet = np.asarray(Image.open(target))
    assert sheet.shape == (110, 3 * 150 + 16, 3)
    assert (sheet[:, :150] == np.asarray(Image.open(before))).all()
    assert (sheet[:, 158:308] == np.asarray(Image.open(after))).all()
    heat = sheet[:, 316:].astype(int)
    assert (heat[BOX] == 255).all()
    assert heat[0, :2, 0].all()
    assert not heat[0, :2, 1:].any()
    small = before.with_name("small.png")
    words = ("-o", small, "--max-side", 75, "--difference", before.with_name("map.png"))
    assert d2s("compare", before, after, *words).exit_code == 0
    assert Image.open(small).size == (3 * 75 + 16, 55)
    assert Image.open(before.with_name("map.png")).size == (150, 110)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_slider_is_one_page_that_loads_nothing(pair: tuple[Path, Path, Path]) -> None:
    before, after, _ = pair
    odd = before.rename(before.with_name("a & <b>.png"))
    target = before.with_name("look.html")
    assert d2s("compare", odd, after, "--slider", target).exit_code == 0
    text = target.read_text()
    assert "a &amp; &lt;b&gt;.png" in text
    page = Page()
    page.feed(text)
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    for source, path in zip(sources, (odd, after), strict=True):
        assert source
        data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        inside = np.asarray(Image.open(io.BytesIO(data)))
        assert (inside == np.asarray(Image.open(path))).all()
    assert not re.search(r"https?:|@import|url\(", text)
    plain = {"html", "meta", "title", "style", "figure", "img", "input", "p", "script"}
    assert {tag for tag, _ in page.tags} <= plain
    assert all("src" not in attrs for tag, attrs in page.tags if tag == "script")
    assert ("range", "divider") in [(a.get("type"), a.get("aria-label")) for _, a in page.tags]


def test_folders_are_matched_by_name(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    before, after = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(("x", "y")):
        photo(before / "sub" / f"{name}.jpg", seed=seed)
        photo(after / "sub" / f"{name}_d2s.png", seed=seed)
    words = ("compare", before, after, "-r", "-o", tmp_path / "sheets")
    result = d2s(*words)
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2
    assert len(list((tmp_path / "sheets" / "sub").glob("*.png"))) == 2
    error = d2s(*words).exception
    assert isinstance(error, D2SError)
    assert "and 1 more exists already" in error.message
    assert d2s(*words, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["a.png", "small.png"], 4, "differ in size"),
        (["a.png", "nowhere.png"], 4, "no folder or file of results"),
        ([".", "a_d2s.png"], 2, "is none"),
        (["a.png", "a_d2s.png", "-m", "nowhere.png"], 4, "no mask at"),
        (["a.png", "a_d2s.png", "-o", "m.png"], 4, "exists already"),
        (["a.png", "a_d2s.png", "-o", "a.png", "-f"], 4, "overwrite an input"),
        (["a.png", "a_d2s.png", "-o", "sheet.doc"], 4, "picture format"),
        (["a.png", "a_d2s.png", "--mask-from", "alpha"], 4, "no transparency"),
    ],
)
def test_what_cannot_be_compared_is_said(
    pair: tuple[Path, Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(pair[0].parent)
    photo(Path("small.png"), size=(40, 30))
    error = d2s("compare", *words).exception
    assert isinstance(error, D2SError)
    assert (error.exit_code, text in error.message) == (code, True), error
