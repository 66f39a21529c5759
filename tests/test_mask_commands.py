"""`d2s mask`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import d2s, mask, photo

from d2s_cli.errors import D2SError
from d2s_cli.images.draw_masks import IRREGULAR, KINDS, draw_hole, irregular_mask
from d2s_cli.images.edit_masks import fill_islands

BOX = np.s_[30:60, 40:70]


def hole(path: Path) -> np.ndarray:
    picture = np.asarray(Image.open(path))
    assert picture.dtype == np.uint8
    assert set(np.unique(picture)) <= {0, 255}
    return picture == 255


def write(path: Path, white: np.ndarray) -> Path:
    Image.fromarray(np.uint8(white) * 255).save(path)
    return path


def error_of(*words: object) -> D2SError:
    error = d2s(*words).exception
    assert isinstance(error, D2SError)
    return error


# check


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Pictures with one mask of every kind that goes wrong, and two that are right."""
    folder = tmp_path / "album"
    for name in ("good", "none", "small", "empty", "full", "inverted", "noisy", "large"):
        photo(folder / f"{name}.png")
    mask(folder / "good_mask.png")
    mask(folder / "small_mask.png", size=(75, 55), box=(1, 1, 5, 5))
    mask(folder / "empty_mask.png", box=(0, 0, 0, 0))
    mask(folder / "full_mask.png", box=(0, 0, 150, 110))
    write(folder / "inverted_mask.png", ~hole(folder / "good_mask.png"))
    mask(folder / "large_mask.png", box=(5, 5, 140, 100))
    noisy = mask(folder / "noisy_mask.jpg")
    Image.open(noisy).save(noisy, quality=30)
    return folder


def test_check_reports_every_kind_of_problem(album: Path) -> None:
    result = d2s("mask", "check", album, "--json")
    assert result.exit_code == 7
    report = json.loads(result.stdout)
    found = {Path(p["image"]).stem: p["code"] for p in report["problems"] + report["warnings"]}
    assert found == {
        "none": "no-mask",
        "small": "size",
        "empty": "empty",
        "full": "full",
        "inverted": "inverted",
        "noisy": "noise",
        "large": "large",
    }
    assert {w["code"] for w in report["warnings"]} == {"noise", "large"}
    good = next(p for p in report["pairs"] if p["image"].endswith("good.png"))
    assert (good["parts"], good["width"], good["height"]) == (1, 150, 110)
    assert good["hole_share"] == pytest.approx(900 / 16500, abs=1e-6)


def test_check_says_it_in_words_and_what_to_type(album: Path) -> None:
    result = d2s("mask", "check", album)
    assert "checked 8: 5 with problems, 2 with warnings" in result.stderr
    assert "hole 5.5% in 1 part" in result.stdout
    assert "--polarity black" in result.stdout
    assert f"d2s mask edit {album / 'noisy_mask.jpg'} --threshold 0.5" in result.stdout


def test_check_of_good_masks_is_quiet_and_zero(tmp_path: Path) -> None:
    image, large = photo(tmp_path / "a.png"), mask(tmp_path / "m.png", box=(5, 5, 140, 100))
    assert d2s("mask", "check", image, "-m", large, "--max-hole", 90, "-q").stdout == ""
    assert d2s("mask", "check", image, "-m", large).exit_code == 0
    assert d2s("mask", "check", image, "-m", large, "--strict").exit_code == 7
    assert d2s("mask", "check", image, "-m", large, "--polarity", "auto").exit_code == 0


def test_a_smoothed_edge_is_no_noise(tmp_path: Path) -> None:
    image, edge = photo(tmp_path / "a.png", (300, 220)), mask(tmp_path / "m.png")
    Image.open(edge).resize((300, 220), Image.Resampling.BILINEAR).save(edge)
    result = d2s("mask", "check", image, "-m", edge, "--strict")
    assert result.exit_code == 0, result.stdout


def test_check_knows_masks_of_the_stored_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo(tmp_path / "a.png")).save(tmp_path / "a.png", exif=exif)
    result = d2s("mask", "check", tmp_path / "a.png", "-m", mask(tmp_path / "m.png"))
    assert result.exit_code == 0
    assert "EXIF orientation 6" in result.stdout


# make


def test_random_masks_repeat_by_seed_and_are_never_replaced_unasked(tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    command = ("mask", "make", image, "--from", "random", "--cover", "10-20")
    assert d2s(*command).exit_code == 0
    first = hole(tmp_path / "a_mask.png")
    assert first.shape == (110, 150)
    assert 0.10 <= first.mean() <= 0.20
    again = error_of(*command)
    assert again.exit_code == 4
    assert "exists already" in again.message
    assert "--force" in again.hint
    assert d2s(*command, "--force").exit_code == 0
    assert (hole(tmp_path / "a_mask.png") == first).all()
    assert d2s(*command, "-f", "--seed", 1).exit_code == 0
    assert (hole(tmp_path / "a_mask.png") != first).any()


def test_several_masks_for_a_folder_pair_with_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        photo(tmp_path / "in" / f"{name}.jpg")
    words = ("--from", "random", "--kind", "mix", "--per-image", 2, "-o", tmp_path / "masks")
    planned = d2s("mask", "make", tmp_path / "in", *words, "--dry-run")
    assert len(planned.stdout.splitlines()) == 4
    assert not (tmp_path / "masks").exists()
    result = d2s("mask", "make", tmp_path / "in", *words, "--print-paths")
    assert result.exit_code == 0
    names = sorted(p.name for p in (tmp_path / "masks").iterdir())
    assert names == ["a_mask000.png", "a_mask001.png", "b_mask000.png", "b_mask001.png"]
    assert sorted(Path(p).name for p in result.stdout.split()) == names
    assert d2s("mask", "check", tmp_path / "in", "-m", tmp_path / "masks").exit_code == 0
    a, b = (hole(tmp_path / "masks" / f"{n}_mask000.png") for n in "ab")
    assert (a != b).any()


def test_masks_from_alpha_colour_and_difference(tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    picture = np.asarray(Image.open(image).convert("RGBA")).copy()
    picture[..., 3][BOX] = 0
    Image.fromarray(picture).save(tmp_path / "cut.png")
    picture[BOX] = (255, 0, 255, 255)
    Image.fromarray(picture).save(tmp_path / "key.png")
    for words in (
        ("cut.png", "--from", "alpha"),
        ("key.png", "--from", "color=#FF00FF"),
        ("key.png", "--from", "diff", "--with", image, "--threshold", 1),
    ):
        target = tmp_path / "m.png"
        result = d2s("mask", "make", tmp_path / words[0], *words[1:], "-o", target, "-f")
        assert result.exit_code == 0, result.stderr
        expected = np.zeros((110, 150), bool)
        expected[BOX] = True
        assert (hole(target) == expected).all()


def test_one_picture_without_a_hole_does_not_end_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    photo(folder / "opaque.png")
    picture = np.full((20, 30, 4), 255, np.uint8)
    picture[:5, :5, 3] = 0
    Image.fromarray(picture).save(folder / "cut.png")
    result = d2s("mask", "make", folder, "--from", "alpha")
    assert result.exit_code == 3
    assert "no transparency" in result.stderr
    assert hole(folder / "cut_mask.png").sum() == 25


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--from", "noise"], 2, "unknown --from"),
        (["--from", "diff"], 2, "go together"),
        (["--from", "alpha", "--per-image", "2"], 2, "for --from random"),
        (["--from", "random", "--kind", "blob"], 2, "unknown kind"),
        (["--from", "random", "--cover", "lots"], 2, "two percentages"),
        (["--from", "random", "--kind", "scratches", "--cover", "90-95"], 2, "they covered"),
        (["--from", "random", "-o", "m.jpg"], 4, "would not stay black and white"),
        (["--from", "random", "-o", "a.png", "-f"], 4, "overwrite an input"),
        (["--from", "color=#000001"], 4, "nothing in"),
    ],
)
def test_masks_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (100, 80), (90, 90, 90)).save("a.png")
    error = error_of("mask", "make", "a.png", *words)
    assert error.exit_code == code
    assert text in error.message
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("width", "mean"), [("thin", 0.289), ("medium", 0.235), ("thick", 0.266)])
def test_irregular_masks_have_the_published_generators_statistics(width: str, mean: float) -> None:
    rng = [np.random.default_rng(i) for i in range(600)]
    shares = [draw_hole(f"irregular-{width}", 256, 256, r).mean() for r in rng]
    assert np.mean(shares) == pytest.approx(mean, abs=0.02)
    assert max(shares) <= 0.5
    assert irregular_mask(rng[0], 256, width).dtype == bool
    assert width in IRREGULAR


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(256, 256), (640, 300), (90, 1000)])
def test_holes_of_every_kind_fit_pictures_of_any_shape(kind: str, size: tuple[int, int]) -> None:
    made = draw_hole(kind, *size, np.random.default_rng(3))
    assert made.shape == size[::-1]
    assert 0 < made.sum() < made.size


# edit


def test_changes_run_in_the_order_typed(tmp_path: Path) -> None:
    source = mask(tmp_path / "m.png")
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    assert d2s("mask", "edit", source, "--invert", "--grow", 4, "-o", first).exit_code == 0
    assert d2s("mask", "edit", source, "--grow", 4, "--invert", "-o", second).exit_code == 0
    assert (~hole(first)).sum() == 22 * 22
    assert hole(first)[BOX].sum() == 900 - 22 * 22
    assert (~hole(second))[BOX].all()
    assert (~hole(second)).sum() > 900


def test_islands_and_specks(tmp_path: Path) -> None:
    white = np.zeros((110, 150), bool)
    white[10:50, 10:50] = True
    white[20:30, 20:30] = False  # enclosed
    white[70:72, 70:72] = True  # a speck
    source, target = write(tmp_path / "m.png", white), tmp_path / "o.png"
    words = ("--fill-holes", "--drop-specks", 5)
    assert d2s("mask", "edit", source, *words, "-o", target).exit_code == 0
    assert hole(target).sum() == 1600
    open_ring = np.ones((9, 9), bool)
    open_ring[4, 4:] = False
    assert (fill_islands(open_ring) == open_ring).all()


@pytest.mark.parametrize(("mode", "pixels"), [("union", 350), ("intersect", 50), ("subtract", 150)])
def test_masks_are_joined(tmp_path: Path, mode: str, pixels: int) -> None:
    a = mask(tmp_path / "a.png", box=(10, 10, 30, 20))
    b = mask(tmp_path / "b.png", box=(25, 10, 45, 20))
    target = tmp_path / "o.png"
    assert d2s("mask", "edit", a, b, "--join", mode, "-o", target).exit_code == 0
    assert hole(target).sum() == pixels


def test_like_fits_a_mask_to_a_picture(tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png", (300, 220))
    source, target = mask(tmp_path / "m.png"), tmp_path / "o.png"
    assert d2s("mask", "edit", source, "--like", image, "-o", target).exit_code == 0
    assert hole(target).shape == (220, 300)
    assert hole(target).sum() == pytest.approx(3600, abs=30)


def test_a_noisy_mask_becomes_clean(tmp_path: Path) -> None:
    clean = mask(tmp_path / "m.png")
    Image.open(clean).save(tmp_path / "m.jpg", quality=40)
    out = tmp_path / "out"
    assert d2s("mask", "edit", tmp_path / "m.jpg", "-o", out).exit_code == 0
    assert (hole(out / "m.png") == hole(clean)).mean() > 0.999


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["a.png", "b.png", "-o", "o.png"], 2, "do not fit into one file"),
        (["a.png", "small.png", "--join", "union", "-o", "o.png"], 4, "differ in size"),
        (["a.png", "b.png", "--join", "xor", "-o", "o.png"], 2, "unknown --join"),
        (["a.png", "--invert", "-o", "b.png"], 4, "exists already"),
        (["a.png", "--invert", "-o", "o.jpg"], 4, "black and white"),
        (["nowhere.png", "--invert", "-o", "o.png"], 4, "no mask at"),
    ],
)
def test_edits_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = [mask(tmp_path / name).read_bytes() for name in ("a.png", "b.png")]
    mask(tmp_path / "small.png", size=(20, 20), box=(1, 1, 5, 5))
    error = error_of("mask", "edit", *words)
    assert (error.exit_code, text in error.message) == (code, True)
    assert [(tmp_path / name).read_bytes() for name in ("a.png", "b.png")] == before
    assert len(list(tmp_path.iterdir())) == 3


# preview


def test_preview_writes_a_tinted_picture_or_prints_a_coarse_one(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (150, 110), (0, 0, 0)).save(image)
    command = ("mask", "preview", image, "-m", mask(tmp_path / "m.png"))
    shown = d2s(*command)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert len({len(line) for line in lines}) == 1
    signs = np.array([list(line) for line in lines])
    assert (signs == "#").mean() == pytest.approx(900 / 16500, abs=0.03)
    assert "hole: 5.5% of 150x110" in shown.stderr
    assert d2s(*command, "-o", tmp_path / "look.png").exit_code == 0
    look = np.asarray(Image.open(tmp_path / "look.png")).astype(int)
    assert (look[BOX][..., 0] > 100).all()
    look[BOX] = 0
    assert not look.any()
    assert "exists already" in error_of(*command, "-o", tmp_path / "look.png").message
    assert "overwrite an input" in error_of(*command, "-o", image, "-f").message


def test_preview_in_colour_uses_half_blocks() -> None:
    from d2s_cli.images.preview import as_text

    rgb = np.zeros((20, 40, 3), np.uint16)
    text = as_text(rgb, np.zeros((20, 40), bool), 20, color=True)
    assert text.count("▀") == 20 * 5
    assert text.endswith("\x1b[0m")


def test_preview_of_a_picture_without_mask_says_where_it_looked(tmp_path: Path) -> None:
    error = error_of("mask", "preview", photo(tmp_path / "a.png"))
    assert error.exit_code == 4
    assert "a_mask*" in error.hint
