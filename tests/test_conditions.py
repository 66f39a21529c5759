"""What goes wrong round a run: full disks, no permission, inputs that vanish, memory that ends."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_runs import d2s, make_weights, pictures, save_pair
from zoo import condition

from d2s_cli import closing, opening
from d2s_cli.errors import D2SError, WeightsError
from d2s_cli.images import reading
from d2s_cli.manifest import MANIFEST_NAME

NOBODY = 65534


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("weights")
    weights = make_weights(folder / "tiny.safetensors")
    words = ["-g", "telea", "--tk", 0, "-w", weights, "-d", "cpu", "--precision", "fp32", "--json"]
    save_pair(folder / "first", "p")
    d2s("inpaint", folder / "first", *words)  # imports what a user without rights cannot
    return words


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for i in range(3):
        save_pair(tmp_path / "scans", f"p{i}", i)
    return tmp_path / "scans"


def statuses(stdout: str) -> dict[str, str]:
    return {Path(e["input"]["path"]).stem: e["status"] for e in json.loads(stdout)["results"]}


def messages(stdout: str) -> str:
    errors = [e["error"] for e in json.loads(stdout)["results"] if "error" in e]
    assert all(error["hint"] for error in errors)
    return " ".join(error["message"] for error in errors)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process do not grow beyond `size`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def without_rights(*readable: Path) -> Iterator[None]:
    """As a user who may do nothing but what files allow to all; root may do everything."""
    if os.geteuid() == 0:
        # a virtual environment may lie where only its owner may look
        for path in (*readable, Path(sys.prefix)):
            for parent in (path, *path.parents):
                with contextlib.suppress(PermissionError):
                    parent.chmod(parent.stat().st_mode | 0o055)
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@condition("a result larger than files may be", "refused", "cannot write")
def test_a_file_too_large_for_the_system(scans: Path, quick: list[object]) -> None:
    with largest_file(6000):  # a result has about 25 kB, a line of the manifest 1 kB
        result = d2s("inpaint", scans, *quick)
    assert set(statuses(result.stdout).values()) == {"failed"}
    assert "cannot write" in messages(result.stdout)
    assert result.exit_code == 3
    assert [p.name for p in (scans.parent / "scans_d2s").iterdir()] == [MANIFEST_NAME]
    again = d2s("inpaint", scans, *quick)
    assert set(statuses(again.stdout).values()) == {"done"}


@condition("a disk that is full", "refused", "No space left")
def test_a_disk_that_fills_up_in_mid_run(
    tmp_path: Path, scans: Path, quick: list[object], request: pytest.FixtureRequest
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=44k", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    request.addfinalizer(lambda: subprocess.run(["umount", disk], check=True))
    result = d2s("inpaint", scans, "-o", disk / "out", *quick)
    found = statuses(result.stdout)
    assert sorted(set(found.values())) == ["done", "failed"]
    assert "No space left" in messages(result.stdout)
    assert result.exit_code == 3
    names = {p.stem for p in (disk / "out").iterdir() if p.name != MANIFEST_NAME}
    assert names == {name for name, status in found.items() if status == "done"}
    for path in (disk / "out").glob("*.png"):
        Image.open(path).load()


@condition("a folder for results that may not be written to", "refused", "no writing in")
def test_a_target_without_permission(tmp_path: Path, scans: Path, quick: list[object]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o555)
    weights = next(Path(str(w)) for w in quick if str(w).endswith(".safetensors"))
    with without_rights(scans, weights):
        result = d2s("inpaint", scans, "-o", out, *quick)
    assert set(statuses(result.stdout).values()) == {"failed"}
    assert "no writing in" in messages(result.stdout)
    assert list(out.iterdir()) == []


@condition("a picture that may not be read", "refused", "cannot read")
def test_a_picture_without_permission(tmp_path: Path, scans: Path, quick: list[object]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    (scans / "p1.png").chmod(0)
    weights = next(Path(str(w)) for w in quick if str(w).endswith(".safetensors"))
    with without_rights(scans, weights):
        result = d2s("inpaint", scans, "-o", out, *quick)
    assert statuses(result.stdout) == {"p0": "done", "p1": "failed", "p2": "done"}
    assert "p1.png: Permission denied" in messages(result.stdout)


@condition("a folder of pictures that may not be read", "stops", "cannot read the folder")
def test_a_folder_without_permission(scans: Path, quick: list[object]) -> None:
    scans.chmod(0)
    weights = next(Path(str(w)) for w in quick if str(w).endswith(".safetensors"))
    with without_rights(weights, scans.parent):
        error = d2s("inpaint", scans, *quick).exception
    scans.chmod(0o700)
    assert isinstance(error, D2SError), repr(error)
    assert "cannot read the folder" in error.message
    assert error.hint


@condition("pictures that may only be read", "restored", "")
def test_a_source_that_is_read_only(tmp_path: Path, scans: Path, quick: list[object]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    for path in (*scans.iterdir(), scans):
        path.chmod(0o555 if path.is_dir() else 0o444)
    weights = next(Path(str(w)) for w in quick if str(w).endswith(".safetensors"))
    with without_rights(scans, weights):
        result = d2s("inpaint", scans, "-o", out, *quick)
    assert set(statuses(result.stdout).values()) == {"done"}


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@condition("a picture or mask that vanishes in mid run", "refused", "no picture at")
@pytest.mark.parametrize("name", ["p1.png", "p1_mask.png"])
@pytest.mark.parametrize("harm", [remove, cut, replace_by_pipe])
def test_inputs_that_change_in_mid_run(
    scans: Path,
    quick: list[object],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    harm: Callable[[Path], None],
) -> None:
    def read(path: Path) -> Any:
        if path.name == "p0.png" and (scans / name).is_file():
            harm(scans / name)
        return reading.read_photo(path)

    monkeypatch.setattr(opening, "read_photo", read)
    result = d2s("inpaint", scans, *quick)
    assert statuses(result.stdout) == {"p0": "done", "p1": "failed", "p2": "done"}
    assert name in messages(result.stdout)
    assert sorted(pictures(scans.parent / "scans_d2s")) == ["p0.png", "p2.png"]


@condition("a picture for which memory does not suffice", "refused", "not enough memory for")
@pytest.mark.parametrize("where", ["read_photo", "fill_sights", "write_photo"])
def test_memory_that_ends(
    scans: Path, quick: list[object], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    calls = []
    room = opening if hasattr(opening, where) else closing
    real = getattr(room, where)

    def fail_once(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            np.empty(1 << 60, np.uint8)  # raises what numpy raises
        return real(*args, **options)

    monkeypatch.setattr(room, where, fail_once)
    result = d2s("inpaint", scans, *quick)
    assert statuses(result.stdout) == {"p0": "done", "p1": "failed", "p2": "done"}
    assert "not enough memory for" in messages(result.stdout)


@condition("a picture on which the guide fails", "refused", "gave no usable picture")
def test_a_guide_that_fails_on_one_picture(
    scans: Path, quick: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = opening.fill_sights

    def fail_once(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise WeightsError("guide telea gave no usable picture", "try: --guide ns")
        return real(*args)

    monkeypatch.setattr(opening, "fill_sights", fail_once)
    result = d2s("inpaint", scans, *quick)
    assert statuses(result.stdout) == {"p0": "done", "p1": "failed", "p2": "done"}


@condition("a manifest that cannot be written to", "restored", "cannot write")
def test_a_manifest_that_cannot_be_written(
    scans: Path, quick: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = d2s("inpaint", scans, *quick)
    assert set(statuses(result.stdout).values()) == {"done"}
    assert result.stderr.count("warning: cannot write") == 1
    assert "the same command makes these results again" in result.stderr


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "MPO"])
def test_every_format_through_a_pipe(
    tmp_path: Path, scans: Path, quick: list[object], format: str
) -> None:
    import io

    source = Image.open(scans / "p0.png")
    data = io.BytesIO()
    more = {"save_all": True, "append_images": [source]} if format == "MPO" else {}
    source.save(data, format, **more)
    words = ["inpaint", "-", "-m", scans / "p0_mask.png", *quick, "--format", "png", "-o", "-"]
    result = d2s(*words, stdin=data.getvalue())
    assert result.exit_code == 0, (result.stderr, result.exception)
    with Image.open(io.BytesIO(result.stdout_bytes)) as picture:
        assert (picture.format, picture.size) == ("PNG", source.size)
    several = d2s(*words, "--samples", 2, stdin=data.getvalue()).exception
    assert isinstance(several, D2SError)
