"""benchmarks/quality.py: holes of the wanted size, intervals, verdicts, tables, results kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_weights, photo
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import quality
from quality_parts import crops as crops_room
from quality_parts import sheets, tables
from quality_parts.chains import ALONE, Chain, remembered, results_of
from quality_parts.claims import Claim, claims_of, summary
from quality_parts.crops import HOLE_KINDS, SIDE, CropSet, crop_set, draw, spread
from quality_parts.judge import Judged, change, held_out_wins, with_interval


def save_crops(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(photo(SIDE, SIDE, number)).save(folder / f"crop_{number:02}.png")


@pytest.mark.parametrize("name", [name for name, kind in HOLE_KINDS.items() if kind.cover])
def test_holes_cover_what_their_row_says(name: str) -> None:
    kind = HOLE_KINDS[name]
    assert kind.cover is not None
    low, high = kind.cover
    holes = [draw(kind, number, 0) for number in range(12)]
    assert all(low <= hole.mean() <= high for hole in holes)
    assert np.ptp([hole.mean() for hole in holes]) > (high - low) / 4
    assert np.array_equal(holes[3], draw(kind, 3, 0))
    assert not np.array_equal(holes[3], draw(kind, 3, 1))


def test_sizes_share_no_crop_and_use_all(tmp_path: Path) -> None:
    save_crops(tmp_path / "val", 10)
    sets = [crop_set(tmp_path / "val", name, None, 0) for name in crops_room.SIZES]
    names = [path.name for one in sets for path in one.paths]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "val").iterdir())
    together = crops_room.joined(sets, "all")
    assert [path.name for path in together.paths] == names
    assert np.array_equal(together.holes[4], sets[1].holes[0])
    assert spread("abcdef", 3) == ["a", "c", "e"]
    assert spread("ab", 5) == ["a", "b"]


def judged(seed: int, count: int = 20, shift: float = 0.0) -> Judged:
    rng = np.random.default_rng(seed)
    truth = np.abs(np.random.default_rng(99).normal(size=(count, 6)))
    numbers = {name: rng.uniform(1, 2, count) for name in ("perceptual", "pids", "psnr", "ssim")}
    seam = rng.uniform(0, 1, count)
    seam[0] = np.nan
    return Judged({"frechet": truth + shift, "truth": truth, "seam": seam} | numbers)


def test_intervals_of_means_are_the_textbook_ones() -> None:
    one = judged(0)
    values = one.per_crop["psnr"]
    value, half = with_interval(one, "psnr")
    assert value == pytest.approx(values.mean())
    assert half == pytest.approx(1.96 * values.std(ddof=1) / len(values) ** 0.5)
    assert with_interval(one, "seam")[0] == pytest.approx(one.per_crop["seam"][1:].mean())


def test_a_shift_is_its_own_frechet_distance() -> None:
    value, half = with_interval(judged(0, shift=0.5), "frechet")
    assert value == pytest.approx(6 * 0.25)
    assert half == pytest.approx(0, abs=1e-9)


def test_changes_are_paired() -> None:
    base = judged(1)
    better = Judged(base.per_crop | {"perceptual": base.per_crop["perceptual"] * 0.8})
    assert change(base, better, "perceptual") == pytest.approx((-20, 0), abs=1e-9)
    louder = Judged(base.per_crop | {"psnr": base.per_crop["psnr"] + 2})
    assert change(base, louder, "psnr") == pytest.approx((2, 0), abs=1e-9)
    assert change(base, judged(2), "psnr")[1] > 0.1


def test_the_classifier_is_asked_about_crops_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    truths = rng.normal(size=(40, 80))
    told = truths.copy()
    told[:, 0] += 3
    assert held_out_wins(truths, told).mean() == 0
    # results that are as good as other truths: nothing to learn, although 40 pairs of 80 numbers
    # can always be told apart by a plane of their own
    alike = truths + rng.normal(size=truths.shape)
    assert 0.2 < held_out_wins(truths, alike).mean() < 0.8


def test_verdicts() -> None:
    def claim(value: float, half: float, wanted: float) -> Claim:
        return Claim("auto", "telea", "5-15 %", "frechet", value, half, wanted)

    assert claim(-30, 4, 25).verdict == "met"
    assert claim(-30, 6, 25).verdict == "met, not clearly"
    assert claim(-20, 6, 25).verdict == "missed by 5.0"
    assert claim(3, 1, 0).verdict == "missed by 3.0"
    assert claim(0, 0, 0).verdict == "missed: no change"
    assert summary([claim(-30, 4, 25)]).startswith("**met**")
    assert "1 of 2" in summary([claim(-30, 4, 25), claim(0, 0, 0)])


def row(guide: str, frechet: float, **more: Any) -> dict[str, Any]:
    scores = {name: [0.5, 0.01] for name in quality.SCORES} | {"frechet": [frechet, 2.0]}
    return {"holes": "5-15 %", "crops": 3, "share": 0.1, "guide": guide, "scores": scores} | more


def changed(percent: float) -> dict[str, list[float]]:
    return {name: [percent, 1.0] for name in quality.SCORES}


def known_data() -> dict[str, Any]:
    rows = [
        row("telea", 80),
        row("telea", 60, change=changed(-25)),
        row("auto", 30, change=changed(0.5), against={"telea": changed(-60)}),
    ]
    about = {"crops": "3 of val"}
    groups = [{"title": "Steps", "rows": [{"label": "five", "scores": rows[0]["scores"]}]}]
    return {
        "rows": {"about": about, "rows": rows},
        "ablations": {"about": about, "groups": groups},
    }


def test_targets_come_from_the_rows() -> None:
    claims = {(c.what, c.row, c.score): c for c in claims_of(known_data()["rows"]["rows"])}
    assert claims["refined", "telea", "frechet"].verdict == "met"
    assert claims["refined", "auto", "perceptual"].verdict == "missed by 0.5"
    assert claims["auto", "telea", "frechet"].wanted == 50
    assert claims["auto", "telea", "perceptual"].met
    assert len(claims) == 6


def test_tables_are_written_between_the_markers(tmp_path: Path) -> None:
    page, data = tmp_path / "quality.md", tmp_path / "quality.json"
    sections = "".join(f"<!-- {n} -->\nold\n<!-- /{n} -->\n" for n in quality.SECTIONS)
    page.write_text(f"# Ours\n\n{sections}\nKept.\n")
    data.write_text(json.dumps(known_data()))
    quality.main(["val", "--part", "tables", "--json", str(data), "--markdown", str(page)])
    text = page.read_text()
    assert text.startswith("# Ours\n")
    assert text.endswith("\nKept.\n")
    assert "old" not in text
    assert "| **telea** alone | 80.0 ± 2.0 |" in text
    assert "| telea, refined | **60.0 (-25.0 ± 1.0 %)** |" in text
    assert "| telea | 5-15 % | -60.0 ± 1.0 %: met | -60.0 ± 1.0 %: met |" in text
    assert "### Steps" in text
    quality.main(["val", "--part", "tables", "--json", str(data), "--markdown", str(page)])
    assert page.read_text() == text
    with pytest.raises(ValueError, match="no <!-- rows -->"):
        tables.insert("# no markers", "rows", "x")


def test_fills_are_remembered_by_their_inputs(tmp_path: Path) -> None:
    calls = []

    def fill(picture: NDArray[Any], hole: NDArray[np.bool_], seed: int) -> NDArray[Any]:
        calls.append(seed)
        return np.full_like(picture, seed)

    kept = remembered(fill, tmp_path)
    picture, hole = photo(16, 24), np.zeros((16, 24), bool)
    assert (kept(picture, hole, 3) == 3).all()
    assert (remembered(fill, tmp_path)(picture, hole, 3) == 3).all()
    assert (kept(picture, ~hole, 4) == 4).all()
    kept(picture + 1, hole, 3)
    assert calls == [3, 4, 3]


def test_results_are_made_once(tmp_path: Path) -> None:
    save_crops(tmp_path / "val", 9)
    crops = crop_set(tmp_path / "val", "5-15 %", None, 0)
    weights = make_weights(tmp_path / "tiny.safetensors")
    chain = Chain("telea", ALONE | {"weights": str(weights)})
    results, made = results_of(chain, crops, tmp_path / "cache")
    assert len(made) == 3
    assert all(np.array_equal(r[~h], t[~h]) for r, t, h in zip(results, *of(crops), strict=True))
    again, made = results_of(chain, crops, tmp_path / "cache")
    assert made == []
    assert np.array_equal(again, results)
    moved = crop_set(tmp_path / "val", "5-15 %", None, 1)
    assert len(results_of(chain, moved, tmp_path / "cache")[1]) == 3
    before = chain.folder_name
    make_weights(weights, seed=1)
    assert chain.folder_name != before


def of(crops: CropSet) -> tuple[NDArray[Any], NDArray[Any]]:
    return crops.truths, crops.holes


def test_sheets_show_only_what_may_be_shown_and_credit_it(tmp_path: Path) -> None:
    save_crops(tmp_path / "val", 9)
    crops = crop_set(tmp_path / "val", "15-30 %", None, 0)
    head = "file,source,original,author_or_credit,licence,licence_class\n"
    lines = [
        f"val/{crops.paths[0].name},a,x_1.jpg,Ann | Bo,CC BY 2.0,CC-BY",
        f"val/{crops.paths[1].name},b,y.jpg,Cy,GPL-2+,GPL",
        f"val/{crops.paths[2].name},c,z.jpg,Di,CC0,CC0/PD",
        f"train/{crops.paths[1].name},b,y.jpg,Cy,CC0,CC0/PD",
    ]
    (tmp_path / "sources.csv").write_text(head + "\n".join(lines))
    sources = sheets.read_sources(tmp_path / "sources.csv", "val")
    distance = np.array([3.0, 1.0, 2.0]) * crops.holes.mean(axis=(1, 2))
    shown = sheets.Shown("telea", crops, crops.truths, crops.truths, distance)
    assert sheets.ranked(shown, sources) == [2, 0]
    paths = sheets.write_sheets(shown, sources, tmp_path / "sheets")
    assert paths == [crops.paths[2], crops.paths[0]]
    for end in ("best", "worst"):
        file = tmp_path / "sheets" / f"telea-{end}.jpg"
        assert file.stat().st_size < sheets.LARGEST
        with Image.open(file) as picture:
            assert picture.width > 4 * sheets.SIDE
    assert "Ann \\| Bo" in sheets.credits_table(paths, sources)
