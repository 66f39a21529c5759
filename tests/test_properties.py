"""What holds for any names, any holes, any picture, and for whole runs of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_formats import ENDINGS, KINDS, UNCHANGED, samples
from test_runs import make_weights

from d2s_cli.engine import inpaint
from d2s_cli.images.files import typed
from d2s_cli.images.finding import MASK_PATTERNS, find_masks
from d2s_cli.images.formats import FORMATS
from d2s_cli.images.masks import has_transparent_pixels
from d2s_cli.images.pairing import make_plan
from d2s_cli.images.photo import Photo
from d2s_cli.images.reading import read_photo
from d2s_cli.images.regions import BUCKETS, CONTEXT, hole_windows
from d2s_cli.images.whole_files import partial_path
from d2s_cli.images.writing import changed_known_pixels, fill_hole, write_photo

quietly = settings(deadline=None, suppress_health_check=list(HealthCheck))


def is_stem(text: str) -> bool:
    """Can stand before an ending in a file's name, and does not hide the file."""
    return not set(text) & {"/", "\0"} and not text.startswith(".") and 0 < length(text) < 200


def length(text: str) -> int:
    return len(os.fsencode(text))


#: any names, also such as are no UTF-8
stems = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), max_size=60),
    st.binary(max_size=60).map(os.fsdecode),
    st.text("ab_-.*[]?{}\n mask", max_size=12),
).filter(is_stem)
endings = st.sampled_from(sorted(FORMATS))


# names


@settings(quietly, max_examples=60)
@given(stem=stems, ending=endings, pattern=st.sampled_from(MASK_PATTERNS), more=stems)
def test_a_mask_beside_its_picture_is_found_whatever_the_name(
    tmp_path_factory: pytest.TempPathFactory, stem: str, ending: str, pattern: str, more: str
) -> None:
    folder = tmp_path_factory.mktemp("names")
    image = folder / f"{stem}{ending}"
    image.touch()
    name = pattern.replace("*", more).replace("{}", stem) + ".png"
    assume(length(Path(name).name) <= 255)
    mask = folder / name
    mask.parent.mkdir(exist_ok=True)
    mask.touch()
    (plan,) = make_plan(folder).jobs
    assert (plan.image, plan.mask) == (image, mask)
    assert plan.output == folder.with_name(f"{folder.name}_d2s") / image.name
    assert length(partial_path(plan.output).name) <= 255


@settings(quietly, max_examples=60)
@given(names=st.lists(stems, min_size=2, max_size=5, unique=True), beside=st.booleans())
def test_every_picture_gets_its_own_mask_and_result(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], beside: bool
) -> None:
    def belongs(a: str, b: str) -> bool:
        """By its name, b may be a mask of a, or its mask one of a's."""
        return any(f"{b}{end}".startswith(a + mark) for mark in MARKS for end in ("", "_mask"))

    assume(not any(belongs(a, b) for a in names for b in names if a != b))
    folder, masks = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("masks")
    for name in names:
        (folder / f"{name}.png").touch()
        place = folder / f"{name}_mask.png" if beside else masks / f"{name}.png"
        place.touch()
    plan = make_plan(folder, None if beside else masks)
    assert not plan.failed
    pairs = {job.image.stem: job.mask.stem for job in plan.jobs}
    assert pairs == {name: f"{name}_mask" if beside else name for name in names}
    assert len({job.output for job in plan.jobs}) == len(names)


MARKS = ("_mask", "-mask", ".mask")


@settings(quietly, max_examples=40)
@given(stem=stems)
def test_names_in_hints_can_be_typed(stem: str) -> None:
    import shlex

    assert shlex.split(f"d2s inpaint {typed(Path('in') / stem)}")[-1] == str(Path("in") / stem)


@settings(quietly, max_examples=40)
@given(stem=stems, data=st.binary(max_size=300), ending=endings)
def test_files_of_any_content_are_planned_without_complaint(
    tmp_path_factory: pytest.TempPathFactory, stem: str, data: bytes, ending: str
) -> None:
    image = tmp_path_factory.mktemp("content") / f"{stem}{ending}"
    image.write_bytes(data)
    assert not has_transparent_pixels(image)
    assert find_masks(image, None) == []


# windows


@st.composite
def any_holes(draw: st.DrawFn) -> np.ndarray:
    """Pictures of any shape, also one pixel high, with holes of any form."""
    height, width = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kind = draw(st.sampled_from(["specks", "lines", "half", "all", "corner"]))
    hole = np.zeros((height, width), bool)
    if kind == "specks":
        count = draw(st.integers(1, 30))
        hole[rng.integers(0, height, count), rng.integers(0, width, count)] = True
    elif kind == "lines":
        hole[rng.integers(0, height)] = hole[:, rng.integers(0, width)] = True
    elif kind == "half":
        hole = rng.random((height, width)) < 0.5
    elif kind == "all":
        hole[...] = True
    else:
        hole[-1, -1] = hole[0, 0] = True
    return hole


@settings(quietly, max_examples=60)
@given(
    hole=any_holes(),
    largest=st.sampled_from(BUCKETS),
    context=st.one_of(st.none(), st.integers(0, 900)),
)
def test_windows_cover_every_hole_once_within_bounds_and_in_sizes_allowed(
    hole: np.ndarray, largest: int, context: int | None
) -> None:
    windows = hole_windows(hole, largest, context)
    assert [w.number for w in windows] == list(range(len(windows)))
    answered = np.zeros(hole.shape, int)
    for window in windows:
        answered[window.slices] += window.own
        ys, xs = np.nonzero(window.own)
        for axis, (first, size, places) in enumerate(
            ((window.top, window.height, ys), (window.left, window.width, xs))
        ):
            whole = hole.shape[axis]
            assert 0 <= first <= first + size <= whole
            assert size in BUCKETS or size == whole or size > largest
            extent = int(places.max()) - int(places.min()) + 1
            margin = context if context is not None else int(np.clip(extent // 2, *CONTEXT))
            before, after = int(places.min()), size - int(places.max()) - 1
            assert before >= min(margin, first + before) - 1
            assert after >= min(margin, whole - first - size + after) - 1
    assert (answered == hole).all()


# codecs


@st.composite
def sources(draw: st.DrawFn) -> tuple[str, str, np.ndarray]:
    """Format, kind and samples of a picture of any size."""
    name = draw(st.sampled_from(list(KINDS)))
    kind = draw(st.sampled_from(KINDS[name].split()))
    deep = name in ("PNG", "TIFF") and kind != "CMYK" and (name, kind) != ("TIFF", "LA")
    dtype = draw(st.sampled_from([np.uint8, np.uint16])) if deep else np.uint8
    size = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    flat = draw(st.booleans())
    picture = samples(len(kind), dtype, draw(st.integers(0, 1000)), (1, 1) if flat else size)
    picture = np.broadcast_to(picture.reshape(*picture.shape[:2], len(kind)), (*size, len(kind)))
    return name, kind, np.ascontiguousarray(picture)


def saved(folder: Path, name: str, kind: str, picture: np.ndarray) -> Path:
    source = folder / f"a{ENDINGS[name]}"
    write_photo(Photo(source, picture, kind, ""), picture, source)
    return source


@settings(quietly, max_examples=60)
@given(case=sources(), target=st.sampled_from(list(KINDS)), seed=st.integers(0, 100))
def test_known_pixels_survive_any_change_of_lossless_format(
    tmp_path_factory: pytest.TempPathFactory, case: Any, target: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("codecs")
    photo = read_photo(saved(folder, *case))
    hole = np.random.default_rng(seed).random(photo.rgb.shape[:2]) < 0.3
    result = samples(3, photo.rgb.dtype, seed, hole.shape)
    filled = fill_hole(photo, result.reshape(*hole.shape, 3), hole)
    path = folder / f"b{ENDINGS[target]}"
    write_photo(photo, filled, path)
    assert changed_known_pixels(photo, hole, path) == UNCHANGED
    again = read_photo(path)
    assert again.size == photo.size
    if photo.kind != "CMYK" and again.rgb.dtype == photo.rgb.dtype:
        assert (again.rgb[~hole] == photo.rgb[~hole]).all()


@settings(quietly, max_examples=60)
@given(
    kind=st.sampled_from(["L", "RGB", "CMYK"]),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 1000),
)
def test_jpeg_of_any_size_keeps_its_kind_and_coding(
    tmp_path_factory: pytest.TempPathFactory, kind: str, size: tuple[int, int], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("jpeg")
    picture = samples(len(kind) if kind != "L" else 1, seed=seed, size=size)
    picture = picture.reshape(*size, -1)
    source, path = folder / "a.jpg", folder / "b.jpg"
    write_photo(Photo(source, picture, kind, ""), picture, source)
    photo = read_photo(source)
    write_photo(photo, photo.samples, path)
    again = read_photo(path)
    assert (again.kind, again.size, again.jpeg) == (kind, photo.size, photo.jpeg)


# whole runs


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors"))


@settings(quietly, max_examples=12)
@given(case=sources(), seed=st.integers(0, 100), share=st.sampled_from([0.0, 0.02, 0.5, 0.98]))
def test_any_picture_with_any_hole_is_refined_and_nothing_else_changes(
    tmp_path_factory: pytest.TempPathFactory, weights: str, case: Any, seed: int, share: float
) -> None:
    from PIL import Image

    folder = tmp_path_factory.mktemp("runs")
    source = saved(folder, *case)
    hole = np.random.default_rng(seed).random(case[2].shape[:2]) < share
    assume(not hole.all())
    Image.fromarray(hole.astype(np.uint8) * 255).save(folder / "m.png")
    (entry,) = inpaint(source, folder / "m.png", guide="telea", weights=weights, device="cpu")
    assert entry["status"] == ("done" if hole.any() else "copied"), entry
    assert entry["changed_outside"] == 0
    after = read_photo(Path(entry["output"]["path"]))
    before = read_photo(source)
    assert (after.samples[~hole] == before.samples[~hole]).all()
    assert after.kind == before.kind or before.kind == "RGBA"  # WebP that became opaque
