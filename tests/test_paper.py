"""`d2s paper`: the data, the sweep, its figures and its table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import photo
from PIL import Image
from test_cli import d2s

from d2s_cli import engine
from d2s_cli.cli.paper_sweep import parse_masks, parse_numbers
from d2s_cli.diffusion.loading import load_refiner
from d2s_cli.diffusion.refiner import Refiner, RefinerConfig
from d2s_cli.diffusion.schedule import NoiseTable
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.errors import D2SError, InputError, UsageError
from d2s_cli.evaluation import evaluate
from d2s_cli.images.masks import MaskSettings
from d2s_cli.paper.chart import Panel, Series, draw, svg, ticks, write_png
from d2s_cli.paper.dataset import pair_masks, read_mapping, resize, split
from d2s_cli.paper.plan import Cell, Sweep, plan
from d2s_cli.paper.report import figure_panels, paper_table, table_markdown, write_report
from d2s_cli.paper.run import Outcome, run
from d2s_cli.recipe import Settings, known_steps, resolve_recipe
from d2s_cli.weights.reading import write_safetensors

UNET = UNetConfig(inner_channels=32, channel_mults=(1, 2), res_blocks=1, unshuffle=2)
#: knows noise up to step 437 of 1000
CONFIG = RefinerConfig(unet=UNET, prediction="v", alpha_bar_min=0.385, tile=64)
TWO_MASKS = {"small": Path("s"), "large": Path("l")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_safetensors(path, UNet(UNET).state_dict(), CONFIG.to_json())
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three photos of 64 x 64 in pictures/, and a mask for each in masks/."""
    for number in range(3):
        write(tmp_path / f"pictures/{number}.png", photo(64, 64, number))
        hole = np.zeros((64, 64), np.uint8)
        hole[20 : 40 + number, 10:40] = 255
        write(tmp_path / f"masks/{number}.png", hole)
    return tmp_path / "pictures"


def write(path: Path, samples: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(samples).save(path)
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def small_sweep(pictures: Path, weights: Path, **changes: Any) -> Sweep:
    settings = {"weights": str(weights), "sampler": "ddpm", "inject": False, "device": "cpu"}
    fields: dict[str, Any] = {
        "guides": ("telea",),
        "parts": ("figure6", "table1"),
        "starts": (100, 450),
        "tables": (500, 1000),
        "steps": 2,
        "metrics": ("psnr", "seam"),
        "settings": {**settings, "precision": "fp32"},
    }
    folder = pictures.parent
    return Sweep(pictures, {"small": folder / "masks"}, folder / "out", **(fields | changes))


def swept(sweep: Sweep, **options: Any) -> dict[str, Outcome]:
    outcomes = run(sweep, plan(sweep), **options)
    return {f"{o.cell.guide}/{o.cell.name}": o for o in outcomes}


@pytest.fixture
def refined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows in each call of Refiner.refine."""
    calls: list[int] = []
    honest = Refiner.refine

    def spy(self: Refiner, image: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        calls.append(len(image))
        return honest(self, image, *args, **options)

    monkeypatch.setattr(Refiner, "refine", spy)
    return calls


# data


def test_the_split_follows_celebas_file_numbers(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.txt"
    mapping.write_text(
        "idx orig_idx orig_file\n"
        "0  162769  162770.jpg\n1  162770  162771.jpg\n2  182636  182637.jpg\n"
        "10 182637  182638.jpg\n9  0  000001.jpg\n"
    )
    assert read_mapping(mapping) == {0: 162770, 1: 162771, 2: 182637, 10: 182638, 9: 1}
    assert split(mapping, tmp_path / "lists") == {"train": 2, "val": 2, "test": 1}
    assert (tmp_path / "lists/train.txt").read_text() == "0.jpg\n9.jpg\n"
    assert (tmp_path / "lists/val.txt").read_text() == "1.jpg\n2.jpg\n"
    assert (tmp_path / "lists/test.txt").read_text() == "10.jpg\n"
    with pytest.raises(InputError, match="exists"):
        split(mapping, tmp_path / "lists")


def test_lists_hold_the_pictures_that_are_there(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.txt"
    mapping.write_text("0 162769 162770.jpg\n1 162770 162771.jpg\n")
    for name in ("00001", "00002"):
        write(tmp_path / f"hq/{name}.jpg", photo(16, 16))
    with pytest.raises(InputError, match=r"1 of 2 .* number 0") as caught:
        split(mapping, tmp_path / "lists", tmp_path / "hq")
    assert "--first 1" in caught.value.hint
    result = d2s("paper", "split", mapping, "--pictures", tmp_path / "hq", "--first", 1, "-o",
                 tmp_path / "lists")  # fmt: skip
    assert result.exit_code == 0
    assert "24183 train" in result.stderr
    assert (tmp_path / "lists/val.txt").read_text() == f"{tmp_path / 'hq/00002.jpg'}\n"


@pytest.mark.parametrize("text", ["", "0 5 x\n", "1 2 3.jpg\n1 2 3.jpg\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mapping.txt").write_text(text)
    with pytest.raises(InputError):
        read_mapping(tmp_path / "mapping.txt")


def test_pictures_are_resized_once(tmp_path: Path) -> None:
    large = photo(96, 96)
    write(tmp_path / "in/a.png", large)
    write(tmp_path / "in/b.png", photo(32, 32, 1))
    result = d2s("paper", "resize", tmp_path / "in", "-o", tmp_path / "out", "--size", 32)
    assert result.exit_code == 0
    expected = Image.fromarray(large).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(read(tmp_path / "out/a.png"), np.asarray(expected))
    assert np.array_equal(read(tmp_path / "out/b.png"), photo(32, 32, 1))
    (tmp_path / "out/b.png").unlink()
    assert resize(tmp_path / "in", tmp_path / "out", 32) == (1, 1)
    write(tmp_path / "in/c.png", photo(32, 40))
    with pytest.raises(InputError, match="square"):
        resize(tmp_path / "in", tmp_path / "out", 32)
    with pytest.raises(InputError, match="replace"):
        resize(tmp_path / "in", tmp_path / "in", 32)


def test_masks_are_paired_in_the_order_of_names_as_text(tmp_path: Path) -> None:
    for name in ("9", "10"):
        write(tmp_path / f"pictures/{name}.png", photo(20, 20))
    for i, name in enumerate(("000000", "000001", "000002")):
        black = np.full((20, 20), 255, np.uint8)
        black[: 2 + i] = 0
        write(tmp_path / f"mat/{name}.png", black)
    settings = MaskSettings(polarity="black", source="name")
    places = tmp_path / "pictures", tmp_path / "mat", tmp_path / "out"
    paired = pair_masks(*places, settings)
    assert (paired.count, paired.mean_hole) == (2, pytest.approx(0.125))
    assert (read(tmp_path / "out/10.png") == 255).sum() == 2 * 20
    assert (read(tmp_path / "out/9.png") == 255).sum() == 3 * 20
    with pytest.raises(InputError, match="exists"):
        pair_masks(*places, settings)
    for path in (tmp_path / "mat").glob("00000[12].png"):
        path.unlink()
    with pytest.raises(InputError, match=r"1 masks in .* for 2 pictures"):
        pair_masks(*places, settings, force=True)


# settings


def test_the_papers_settings_are_the_default() -> None:
    sweep = Sweep(Path("p"), TWO_MASKS, Path("o"), settings={"inject": True})
    cells = sweep.cells()
    assert len(cells) == len(set(cells)) == 2 * (46 + 19 + 6 * 2)
    whole = sum(range(100, 501, 50))
    passes = 2 * (5 * whole + 2 * whole + 6 * 200)
    assert sum(sweep.evaluations(cell) for cell in cells) == 2 * passes
    first = sweep.settings_of(Cell("small", "mat", "middle", 1000, 200))
    assert (first.tk, first.steps, first.table_steps, first.start) == (200, 200, 1000, "middle")
    start = sweep.settings_of(Cell("small", "mat", "start", 350, 350))
    assert (start.tk, start.steps, start.table_steps, start.start) == (350, 350, 350, "start")
    assert sweep.settings_of(Cell("small", "mat")).tk == 0


@pytest.mark.parametrize("length", [100, 500, 1000, 2000])
def test_known_steps_are_those_that_a_run_accepts(weights: Path, length: int) -> None:
    refiner = load_refiner(weights)
    known = known_steps(CONFIG.alpha_bar_min, NoiseTable(length))
    resolve_recipe(Settings(tk=known, table_steps=length), refiner, "telea")
    if known < length:
        with pytest.raises(UsageError, match=f"up to step {known} of"):
            resolve_recipe(Settings(tk=known + 1, table_steps=length), refiner, "telea")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("100-500:200", (100, 300, 500)), ("7", (7,)), ("3,1-2", (1, 2, 3)), ("5,5", (5,))],
)
def test_ranges(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text, "--tk") == numbers


@pytest.mark.parametrize("text", ["", "a", "5-1", "1-5:0", "1,,2"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--tk"):
        parse_numbers(text, "--tk")


def test_masks_have_names() -> None:
    assert parse_masks(["small=a", "large=b=c"]) == {"small": Path("a"), "large": Path("b=c")}
    for given in (["a"], ["=a"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(UsageError):
            parse_masks(given)


@pytest.mark.parametrize(
    "changes",
    [
        {"guides": ("auto",)},
        {"guides": ("telea", "telea")},
        {"parts": ("figure5",)},
        {"starts": (0,)},
        {"limit": 0},
        {"guides": ("nothing",)},
    ],
)
def test_impossible_sweeps_are_refused(
    pictures: Path, weights: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        plan(small_sweep(pictures, weights, **changes))


# sweeps


def test_a_sweep_refines_as_the_engine_does_and_scores_as_evaluate(
    pictures: Path, weights: Path
) -> None:
    sweep = small_sweep(pictures, weights)
    found = swept(sweep)
    assert {name: o.status for name, o in found.items()} == {
        "telea/alone": "done",
        "telea/T1000-tk200": "done",
        "telea/T500-tk100": "done",
        "telea/T500-tk450": "blocked",
        "telea/T1000-tk100": "done",
        "telea/T1000-tk450": "blocked",
    }
    assert "up to step 437 of 1000" in found["telea/T1000-tk450"].why
    place = sweep.output / "small/telea/T500-tk100"
    other = pictures.parent / "other"
    settings = sweep.settings | {"guide": "telea", "tk": 100, "steps": 2, "table_steps": 500}
    engine.inpaint(pictures, pictures.parent / "masks", other, **settings)
    for number in range(3):
        name = f"{number}.png"
        assert np.array_equal(read(place / name), read(other / name))
        assert not np.array_equal(read(place / name), read(place.parent / "alone" / name))
    scores = evaluate(other, pictures, ["psnr", "seam"], masks=pictures.parent / "masks")
    assert found["telea/T500-tk100"].scores == dict(scores.items())
    assert found["telea/T500-tk100"].count == 3


def test_a_sweep_goes_on_where_it_was(
    pictures: Path, weights: Path, refined: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = small_sweep(pictures, weights)
    begun = swept(sweep, stop=lambda: len(refined) > 0)
    assert [o.status for o in begun.values()].count("open") == 3
    first = swept(sweep)
    assert sum(refined) == 3 * 3
    refined.clear()
    for path in (sweep.output / "small/telea/T500-tk100").glob("*.png"):
        path.unlink()  # scored already
    assert swept(sweep) == first
    assert refined == []
    write(pictures / "1.png", photo(64, 64, 9))
    changed = swept(sweep)
    assert sum(refined) == 4 * 1 - 1 + 2  # one picture of three settings; all of the deleted ones
    assert changed["telea/T500-tk100"].scores != first["telea/T500-tk100"].scores


def test_fewer_pictures_are_scored_alone(pictures: Path, weights: Path) -> None:
    swept(small_sweep(pictures, weights))
    found = swept(small_sweep(pictures, weights, limit=2))
    assert {o.count for o in found.values() if o.status == "done"} == {2}
    document = json.loads((pictures.parent / "out/small/telea/alone/scores.json").read_text())
    assert document["scores"]["psnr"]["count"] == 2


def test_what_fails_or_is_not_here_leaves_the_rest_alone(
    pictures: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D2S_WEIGHTS_DIR", str(pictures.parent / "none"))
    guides = ("telea", "mat", "palette", "cmd:false {image} {mask} {output}")
    sweep = small_sweep(pictures, weights, guides=guides, parts=("table1",))
    found = swept(sweep)
    assert [o.status for o in found.values()] == [
        *("done", "done"),
        *("blocked", "blocked"),
        *("blocked", "blocked"),
        *("failed", "failed"),
    ]
    assert "mat" in found["mat/alone"].why
    assert "3 pictures failed" in found[f"{guides[3]}/alone"].why
    words = ("-g", "telea", "-g", guides[3], "--part", "table1", "--steps", 1, "-w", weights)
    result = d2s(
        *("paper", "sweep", pictures, "-m", f"small={pictures.parent / 'masks'}"),
        *("-o", sweep.output, *words, "-M", "psnr", "--device", "cpu", "--json"),
    )
    assert result.exit_code == 3
    rows = json.loads(result.stdout)["settings"]
    assert [row["status"] for row in rows] == ["done", "done", "failed", "failed"]


def test_a_dry_run_counts_and_writes_nothing(pictures: Path, weights: Path) -> None:
    masks = f"small={pictures.parent / 'masks'}"
    words = ("-g", "telea", "--tk", "100,500", "--table-steps", "1000,2000", "-w", weights)
    result = d2s("paper", "sweep", pictures, "-m", masks, "-o", pictures.parent / "out", "--part",
                 "figure6", "--limit", 2, *words, "-n", "--json")  # fmt: skip
    document = json.loads(result.stdout)
    passes = {row["place"]: row["passes"] for row in document["plan"]}
    assert passes == {
        "small/telea/alone": 0,
        "small/telea/T1000-tk100": 100 * 2 * 2,
        "small/telea/T1000-tk500": 0,
        "small/telea/T2000-tk100": 100 * 2 * 2,
        "small/telea/T2000-tk500": 500 * 2 * 2,
    }
    assert document["passes"] == sum(passes.values())
    assert not (pictures.parent / "out").exists()
    assert "cannot be had" in d2s("paper", "sweep", pictures, "-m", masks, "-o", "x", *words,
                                  "-n").stderr  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["-m", "masks"], 2, "NAME=FOLDER"),
        (["-m", "small=nowhere"], 4, "no masks at"),
        (["-m", "small=pictures/none"], 4, "no masks at"),
        (["-m", "small=masks", "--plot", "beauty"], 2, "--plot"),
        (["-m", "small=masks", "-M", "fid"], 5, "no weights for inception-fid"),
        (["-m", "small=masks", "-M", "frechet"], 2, "--features"),
        (["-m", "small=masks", "-g", "mat"], 5, "no setting"),
        (["-m", "small=masks", "--features", "onnx:none.onnx"], 5, "none.onnx"),
        (["-m", "small=masks", "-o", "masks/1.png"], 4, "cannot write"),
    ],
)
def test_sweeps_that_cannot_begin(
    pictures: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(pictures.parent)
    monkeypatch.setenv("D2S_WEIGHTS_DIR", "none")
    guide = [] if "-g" in words else ["-g", "telea"]
    result = d2s("paper", "sweep", pictures, "-o", "out", *words, *guide, "-w", weights)
    assert isinstance(result.exception, D2SError)
    assert result.exception.exit_code == code
    assert text in str(result.exception)


# figures and table


def outcomes_of(sweep: Sweep) -> list[Outcome]:
    """Made up: 3 + T_k / 1000 for the FID of every setting, 3 of the guides alone."""
    return [
        Outcome(cell, "done", "", {"fid": 3 + cell.tk / 1000, "pids": 0.1791, "seam": 0.25}, 9)
        for cell in sweep.cells()
    ]


def test_figures_show_the_papers_curves() -> None:
    sweep = Sweep(Path("p"), TWO_MASKS, Path("o"))
    done = {o.cell: o for o in outcomes_of(sweep)}
    names = {
        part: [[s.name for s in p.series] for p in figure_panels(sweep, done, part, "small", "fid")]
        for part in ("figure3", "figure4", "figure6")
    }
    whole = "whole table of T steps"
    assert names["figure3"] == [
        [f"{guide} alone", f"refined: {whole}", "refined: from T_k of 1000"]
        for guide in ("mat", "palette")
    ]
    assert names["figure4"] == [[f"from the start: {whole}", "from the middle: T_k of 1500"]]
    assert names["figure6"] == [["T = 500", "T = 1000", "T = 1500", "T = 2000"]]
    (panel,) = figure_panels(sweep, done, "figure4", "large", "fid")
    for series in panel.series:
        assert series.points == tuple((t, 3 + t / 1000) for t in range(100, 501, 50))


def test_the_report_has_the_papers_values_beside_ours(tmp_path: Path) -> None:
    sweep = Sweep(Path("p"), TWO_MASKS, tmp_path, guides=("mat", "telea"))
    outcomes = outcomes_of(sweep)
    written = {path.name for path in write_report(sweep, outcomes, ["fid", "seam"])}
    assert {f"figure{n}-{m}-{s}.{e}" for n in (3, 4, 6) for m in ("small", "large")
            for s in ("fid", "seam") for e in ("svg", "png", "csv")} < written  # fmt: skip
    table = (tmp_path / "table1.md").read_text()
    small, large = table.split("## large masks")
    assert "| mat, refined | 3.20 (2.92) | - (3.71) | 17.91 (17.91) | - (30.20) | 0.2500 |" in small
    assert "| **mat** | 3.00 (5.20) |" in large
    assert "| **telea** | 3.00 | - | 17.91 | - | 0.2500 |" in small
    assert "| **wavepaint** | - (4.14) |" in small
    with open(tmp_path / "figure4-small-fid.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    assert rows[0] == {
        "guide": "mat",
        "curve": "from the start: whole table of T steps",
        "x": "100",
        "fid": "3.1",
    }
    assert max(path.stat().st_size for path in tmp_path.glob("*.png")) < 100_000


def test_figures_without_results_are_not_drawn(tmp_path: Path) -> None:
    sweep = Sweep(Path("p"), {"small": Path("s")}, tmp_path, guides=("mat",))
    outcomes = [Outcome(cell, "blocked", "no weights") for cell in sweep.cells()]
    names = sorted(path.name for path in write_report(sweep, outcomes))
    assert names == ["results.csv", "table1.csv", "table1.md"]
    assert "- mat: no weights" in table_markdown(sweep, outcomes, [])


def test_the_papers_table_is_whole() -> None:
    rows = paper_table()
    assert len(rows) == 14
    assert sum(row.refined for row in rows) == 7
    assert {len(row.values) for row in rows} == {8}
    (wave,) = [row for row in rows if row.guide == "wavepaint" and row.refined]
    assert wave.values["large", "fid"] == 6.42
    assert wave.values["small", "uids"] == 26.78


@pytest.mark.parametrize(
    ("low", "high"), [(100, 500), (2.92, 3.0), (0, 1), (5, 5), (-3, 1e4), (1e-5, 2e-5), (0, 0)]
)
def test_ticks_hold_the_range_in_round_numbers(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9
    assert 3 <= len(found) <= 10
    assert len({f"{value:.6g}" for value in found}) == len(found)


def test_drawings_are_the_same_as_svg_and_png(tmp_path: Path) -> None:
    rising = Series("a < b", ((100, 1.0), (300, 2.0), (500, 4.0)))
    drawing = draw([Panel("one", (rising, Series("none", ())))], "title", "x", "y")
    root = ElementTree.fromstring(svg(drawing))
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{space}text")]
    assert "a < b" in texts
    assert "none (no results)" in texts
    dots = [(float(d.get("cx", 0)), float(d.get("cy", 0))) for d in root.iter(f"{space}circle")]
    (x0, y0), (x1, y1), (x2, y2) = dots[:3]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y2 == pytest.approx(2 * (y0 - y1), abs=0.2)
    write_png(drawing, tmp_path / "a.png")
    picture = read_rgb(tmp_path / "a.png")
    assert picture.shape == (drawing.height, drawing.width, 3)
    for x, y in dots[:3]:
        red, _, blue = (int(v) for v in picture[round(y), round(x)])
        assert blue > red + 60  # the first curve's colour
    with pytest.raises(ValueError, match="nothing"):
        draw([Panel("one", ())], "title", "x", "y")


def read_rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))
