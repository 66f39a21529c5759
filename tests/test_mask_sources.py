"""Where inpaint takes the hole from, and which side of a mask it is, as a user types it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import d2s, mask, photo, pixels, weights

__all__ = ["weights"]  # a fixture

QUICK = ("-g", "telea", "--tk", 0)
HOLE = np.s_[30:60, 40:70]


def cutout(path: Path) -> Path:
    """A photo that is transparent in HOLE."""
    picture = np.asarray(Image.open(photo(path)).convert("RGBA")).copy()
    picture[..., 3][HOLE] = 0
    Image.fromarray(picture).save(path)
    return path


def changed(before: Path, after: Path) -> np.ndarray:
    return (pixels(before) != pixels(after)).any(axis=2)


def only_the_hole_changed(before: Path, after: Path) -> bool:
    difference = changed(before, after)
    return bool(difference[HOLE].any() and difference.sum() == difference[HOLE].sum())


@pytest.mark.parametrize("words", [[], ["--mask-from", "alpha"], ["--mask-from", "auto"]])
def test_a_transparent_part_is_the_hole(tmp_path: Path, weights: Path, words: list[str]) -> None:
    image = cutout(tmp_path / "cut.png")
    result = d2s("inpaint", image, *QUICK, "-w", weights, *words)
    assert result.exit_code == 0, result.stderr
    restored = tmp_path / "cut_d2s.png"
    assert only_the_hole_changed(image, restored)
    assert Image.open(restored).mode == "RGBA"
    assert (np.asarray(Image.open(restored))[..., 3] == 255).all()


def test_a_mask_beside_the_picture_goes_before_its_alpha(tmp_path: Path, weights: Path) -> None:
    image = cutout(tmp_path / "cut.png")
    mask(tmp_path / "cut_mask.png", box=(0, 0, 20, 20))
    assert d2s("inpaint", image, *QUICK, "-w", weights).exit_code == 0
    difference = changed(image, tmp_path / "cut_d2s.png")
    assert difference[:20, :20].any()
    assert not difference[20:, 20:].any()


def test_the_hole_of_a_rotated_cutout_is_where_it_is_seen(tmp_path: Path, weights: Path) -> None:
    upright = Image.open(cutout(tmp_path / "upright.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.png", exif=exif)
    assert d2s("inpaint", tmp_path / "turned.png", *QUICK, "-w", weights).exit_code == 0
    again = Image.open(tmp_path / "turned_d2s.png").transpose(Image.Transpose.ROTATE_270)
    again.save(tmp_path / "again.png")
    assert only_the_hole_changed(tmp_path / "upright.png", tmp_path / "again.png")


def test_sixteen_bit_alpha_marks_the_hole_too(tmp_path: Path, weights: Path) -> None:
    import cv2

    deep = np.random.default_rng(0).integers(0, 65536, (110, 150, 4)).astype(np.uint16)
    deep[..., 3] = 65535
    deep[..., 3][HOLE] = 0
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert d2s("inpaint", tmp_path / "deep.png", *QUICK, "-w", weights).exit_code == 0
    after = cv2.imread(str(tmp_path / "deep_d2s.png"), cv2.IMREAD_UNCHANGED)
    different = (after != deep).any(axis=2)
    assert different[HOLE].all()
    assert different.sum() == different[HOLE].sum()


def test_a_key_colour_is_the_hole(tmp_path: Path, weights: Path) -> None:
    image = photo(tmp_path / "marked.png")
    picture = np.asarray(Image.open(image)).copy()
    picture[HOLE] = (255, 0, 250)
    Image.fromarray(picture).save(image)
    words = ("--mask-from", "color=#FF00FF")
    assert d2s("inpaint", image, *QUICK, "-w", weights, *words).exit_code == 0
    assert changed(image, tmp_path / "marked_d2s.png")[HOLE].all()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--mask-from", "name"], "no mask for"),
        (["--mask-from", "alpha", "-m", "m.png"], "contradict"),
        (["--mask-from", "color=red"], "unknown mask source"),
    ],
)
def test_sources_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    cutout(tmp_path / "cut.png")
    mask(tmp_path / "m.png")
    result = d2s("inpaint", "cut.png", *QUICK, *words)
    assert text in str(result.exception)


def test_an_opaque_picture_has_no_alpha_to_go_by(tmp_path: Path, weights: Path) -> None:
    image = photo(tmp_path / "photo.png")
    result = d2s("inpaint", image, *QUICK, "-w", weights, "--mask-from", "alpha")
    assert result.exit_code == 4
    assert "no transparency" in result.stderr


@pytest.mark.parametrize(("white", "side"), [(True, "white"), (False, "black")])
def test_auto_polarity_takes_the_smaller_side_and_says_so(
    tmp_path: Path, weights: Path, white: bool, side: str
) -> None:
    image, hole = photo(tmp_path / "photo.png"), mask(tmp_path / "m.png")
    if not white:
        Image.fromarray(255 - np.asarray(Image.open(hole))).save(hole)
    command = ("inpaint", image, "-m", hole, *QUICK, "-w", weights, "--polarity", "auto")
    result = d2s(*command)
    assert result.exit_code == 0, result.stderr
    assert f"{side} is taken as the hole" in result.stderr
    assert only_the_hole_changed(image, tmp_path / "photo_d2s.png")
