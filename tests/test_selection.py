"""Which pictures of a folder are done: patterns, the first so many, and what is left out."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from conftest import make_weights, save_pair
from PIL import Image
from typer.testing import CliRunner, Result

from d2s_cli import __version__, inpaint
from d2s_cli.cli.app import app
from d2s_cli.errors import InputError, UsageError
from d2s_cli.images.pairing import make_plan
from d2s_cli.images.selection import Selection


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    for name in ("a1", "a2", "b1", "Ä [1]"):
        save_pair(folder, name)
    save_pair(folder / "album", "a3")
    return folder


def d2s(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def chosen(folder: Path, **wishes: object) -> list[str]:
    plan = make_plan(folder, recursive=True, selection=Selection(**wishes))  # type: ignore[arg-type]
    return [job.image.relative_to(folder).as_posix() for job in plan.jobs]


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, ["a1.png", "a2.png", "album/a3.png", "b1.png", "Ä [1].png"]),
        ({"limit": 2}, ["a1.png", "a2.png"]),
        ({"limit": 9}, ["a1.png", "a2.png", "album/a3.png", "b1.png", "Ä [1].png"]),
        ({"include": ("A*",)}, ["a1.png", "a2.png", "album/a3.png"]),
        ({"include": ("a*", "b1.PNG"), "limit": 4}, ["a1.png", "a2.png", "album/a3.png", "b1.png"]),
        ({"include": ("album/*",)}, ["album/a3.png"]),
        ({"include": ("./album/",)}, ["album/a3.png"]),
        ({"exclude": ("album/*", "?1.*")}, ["a2.png", "Ä [1].png"]),
        ({"include": ("ä*",)}, ["Ä [1].png"]),
        ({"include": ("a*",), "exclude": ("*2*",), "limit": 1}, ["a1.png"]),
    ],
)
def test_the_wanted_pictures_are_done(
    scans: Path, wishes: dict[str, object], expected: list[str]
) -> None:
    assert chosen(scans, **wishes) == expected


def test_a_picture_that_is_not_wanted_is_no_failure_and_its_mask_no_picture(scans: Path) -> None:
    (scans / "b1_mask.png").unlink()
    assert len(make_plan(scans).failed) == 1
    plan = make_plan(scans, selection=Selection(exclude=("b1*",)))
    assert plan.failed == []
    assert [job.image.stem for job in plan.jobs] == ["a1", "a2", "Ä [1]"]


def test_nothing_left_and_a_limit_of_none_are_said(scans: Path) -> None:
    with pytest.raises(InputError, match="leave none of 4 pictures"):
        make_plan(scans, selection=Selection(include=("*.tif",)))
    with pytest.raises(UsageError, match="--limit 0"):
        Selection(limit=0)
    assert d2s("inpaint", scans, "--limit", 0).exit_code == 2


def test_one_of_several_files_still_goes_into_a_folder(scans: Path) -> None:
    files = [scans / "a1.png", scans / "a2.png"]
    plan = make_plan(files, output="out.png", selection=Selection(limit=1))
    assert [job.output for job in plan.jobs] == [Path("out.png/a1.png")]
    assert plan.folder == Path("out.png")


def test_the_same_command_without_limit_does_the_rest(scans: Path, tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "tiny.safetensors")
    command = ["inpaint", scans, "-g", "telea", "-w", weights, "-d", "cpu", "--json"]
    first = json.loads(d2s(*command, "--limit", 1, "--include", "a*").stdout)["counts"]
    assert (first["done"], first["skipped"]) == (1, 0)
    rest = json.loads(d2s(*command).stdout)["counts"]
    assert (rest["done"], rest["skipped"]) == (3, 1)


def test_refine_check_and_python_choose_alike(scans: Path, tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "tiny.safetensors")
    done = inpaint(
        scans, output=tmp_path / "out", guide="telea", weights=weights, selection=Selection(limit=1)
    )
    assert [Path(entry["output"]["path"]).name for entry in done] == ["a1.png"]
    words = ["refine", scans, "-G", tmp_path / "out", "--include", "a1*", "--dry-run", "--json"]
    (job,) = json.loads(d2s(*words).stdout)["plan"]
    assert job["guide"] == str(tmp_path / "out" / "a1.png")
    checked = d2s("mask", "check", scans, "--exclude", "a*", "--limit", 1)
    assert checked.stdout.startswith(f"{scans / 'b1.png'}: ok")
    assert len(checked.stdout.splitlines()) == 1


def test_random_masks_of_some_pictures_are_those_of_all(scans: Path, tmp_path: Path) -> None:
    words = ["mask", "make", scans, "--from", "random", "--kind", "mix", "-o"]
    assert d2s(*words, tmp_path / "some", "--exclude", "a*", "--limit", 1).exit_code == 0
    assert d2s(*words, tmp_path / "all").exit_code == 0
    (mask,) = (tmp_path / "some").iterdir()
    assert mask.name == "b1_mask.png"
    assert mask.read_bytes() == (tmp_path / "all" / mask.name).read_bytes()
    assert len(list((tmp_path / "all").iterdir())) > 1


def test_pictures_of_other_formats_are_told_of(scans: Path, tmp_path: Path) -> None:
    for name in ("x.HEIC", "y.heic", "raw.CR2", "notes.txt", ".hidden.heic"):
        (scans / name).touch()
    plan = make_plan(scans)
    assert [path.name for path in plan.others] == ["raw.CR2", "x.HEIC", "y.heic"]
    said = d2s("inpaint", scans, "--dry-run")
    assert "warning: left out for their format: 1 .cr2, 2 .heic (such as" in said.stderr
    found = json.loads(d2s("inpaint", scans, "--dry-run", "--json").stdout)
    assert found["left_out"] == [str(path) for path in plan.others]
    weights = make_weights(tmp_path / "tiny.safetensors")
    run = d2s("inpaint", scans, "-g", "telea", "-w", weights, "--limit", 1)
    assert "left out for their format" in run.stderr
    assert run.exit_code == 0
    only = tmp_path / "only"
    only.mkdir()
    (only / "x.heic").touch()
    with pytest.raises(InputError) as raised:
        make_plan(only)
    assert "1 .heic" in raised.value.hint


def test_a_mask_given_like_a_picture_is_recognised(tmp_path: Path) -> None:
    save_pair(tmp_path, "a")
    mask = (tmp_path / "a_mask.png").rename(tmp_path / "drawn.png")
    with pytest.raises(InputError) as raised:
        make_plan([tmp_path / "a.png", mask])
    assert raised.value.hint.endswith(f"d2s inpaint {tmp_path / 'a.png'} --mask {mask}")


def test_picture_and_mask_in_the_wrong_order_are_told_of(tmp_path: Path) -> None:
    save_pair(tmp_path, "a")
    weights = make_weights(tmp_path / "tiny.safetensors")
    words = ["-g", "telea", "-w", weights, "-d", "cpu", "--steps", 1]
    right = d2s("inpaint", tmp_path / "a.png", "-m", tmp_path / "a_mask.png", *words)
    assert "neither black nor white" not in right.stderr
    swapped = ["inpaint", tmp_path / "a_mask.png", "-m", tmp_path / "a.png", *words]
    assert "neither black nor white" in d2s(*swapped).stderr
    knowing = d2s(*swapped, "--mask-threshold", 0.7, "-o", tmp_path / "b.png")
    assert "neither black nor white" not in knowing.stderr


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a raw picture"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\xff\x0a\0\0", "JPEG XL"),
    ],
)
def test_files_of_formats_that_are_not_read_are_named(
    tmp_path: Path, data: bytes, name: str
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "mask.png")
    path = tmp_path / "a.heic"
    path.write_bytes(data)
    weights = make_weights(tmp_path / "tiny.safetensors")
    result = d2s("inpaint", path, "-m", tmp_path / "mask.png", "-g", "telea", "-w", weights)
    assert f"it holds {name}" in result.stderr
    assert result.exit_code == 4


def test_results_of_single_pictures_are_no_pictures_of_the_folder(scans: Path) -> None:
    before = chosen(scans)
    for name in ("a1_d2s.png", "a2_d2s.s1.png", "a2_d2s.s12.png", "album/a3_d2s.jpg"):
        Image.new("L", (120, 90)).save(scans / name)
    assert chosen(scans) == before
    save_pair(scans, "lonely_d2s")
    assert chosen(scans) == sorted([*before, "lonely_d2s.png"])
    named = make_plan(scans / "a1_d2s.png", mask=scans / "a1_mask.png")
    assert [job.image.name for job in named.jobs] == ["a1_d2s.png"]
    assert d2s("mask", "check", scans).exit_code == 0


def test_d2s_runs_from_a_checkout_that_is_not_installed(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if name == "d2s":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("d2s_cli.closing.version", installed)
    weights = make_weights(tmp_path / "tiny.safetensors")
    words = ["inpaint", scans, "-g", "telea", "-w", weights, "--limit", 1, "--json"]
    (entry,) = json.loads(d2s(*words).stdout)["results"]
    assert entry["d2s"] == __version__
