"""Guides that are programs, and guides of other packages."""

from __future__ import annotations

import dataclasses
import os
import re
import runpy
import sys
import time
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from guide_makers import PYTHON, Crooked, install, program
from PIL import Image

import d2s_cli as d2s
from d2s_cli.errors import UsageError, WeightsError
from d2s_cli.guides.catalogue import FACTS, list_guides
from d2s_cli.guides.check import check_guide, passed, scene
from d2s_cli.guides.registry import BUILT_IN, BY_PREFIX, FROM_WEIGHTS, guide_names
from d2s_cli.guides.sidefile import SideFile, read_side_file


def command(folder: Path, code: str, more: str = "") -> str:
    return f'cmd:{PYTHON} "{program(folder, code)}" {{image}} {{mask}} {{output}} {more}'


COPY = "import shutil\nshutil.copy(image, output)\n"


def fill(name: str, **options: object) -> torch.Tensor:
    return d2s.load_guide(name, **options)(*scene(48, 64))


# programs


def test_a_program_gets_png_files_and_white_is_the_hole(tmp_path: Path) -> None:
    kept = tmp_path / "kept files"  # a space, which no shell may split
    kept.mkdir()
    code = f"import os, shutil\nshutil.copy(image, {str(kept / 'image.png')!r})\n"
    code += f"shutil.copy(mask, {str(kept / 'mask.png')!r})\nshutil.copy(mask, output)\n"
    image, hole = scene(48, 64)
    out = d2s.load_guide(command(kept, code))(image, hole)
    inside = hole[0, 0].numpy() > 0
    mask = np.asarray(Image.open(kept / "mask.png"))
    shown = np.asarray(Image.open(kept / "image.png"))
    assert mask.dtype == np.uint8
    assert (mask == np.where(inside, 255, 0)).all()
    assert shown.shape == (48, 64, 3)
    assert (shown[inside] == 0).all()
    assert (
        np.abs(shown[~inside] / 127.5 - 1 - image[0].permute(1, 2, 0).numpy()[~inside]).max() < 0.01
    )
    assert (out[0, :, inside] == 1).all()  # what it wrote is what fills the hole
    assert torch.equal(out[0, :, ~inside], image[0, :, ~inside])


def test_a_program_keeps_the_contract(tmp_path: Path) -> None:
    checks = list(check_guide(d2s.load_guide(command(tmp_path, COPY))))
    assert passed(checks), checks
    assert [c.name for c in checks if c.level == "warning"] == ["plausible"]  # it fills with black


def test_a_program_is_told_the_seed(tmp_path: Path) -> None:
    code = COPY + f"open({str(tmp_path / 'seed')!r}, 'w').write(more[0])\n"
    d2s.load_guide(command(tmp_path, code, "--seed={seed}"))(*scene(48, 64), seed=7)
    assert (tmp_path / "seed").read_text() == "--seed=7"


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    tool = program(tmp_path, COPY)
    fill(f'cmd:{PYTHON} "{tool}" {{image}} {{mask}} {{output}} ; touch {tmp_path}/made $(id)')
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('out of paint')", "ended with exit code 1: out of paint"),
        ("sys.exit(3)", "ended with exit code 3: it wrote nothing to stderr"),
        ("pass", "wrote no {output}"),
        ("open(output, 'w').write('words')", "no picture that can be read"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9"),
    ],
)
def test_a_program_that_fails_is_named_with_what_it_said(
    tmp_path: Path, code: str, said: str
) -> None:
    name = command(tmp_path, code)
    with pytest.raises(WeightsError) as raised:
        fill(name)
    assert said in str(raised.value)
    assert name in str(raised.value)


def test_a_result_of_another_size_is_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (60, 48)).save(tmp_path / "small.png")
    code = f"import shutil\nshutil.copy({str(tmp_path / 'small.png')!r}, output)\n"
    with pytest.raises(WeightsError, match="wrote 60x48 pixels for a picture of 64x48"):
        fill(command(tmp_path, code))


def test_a_deep_result_is_brought_to_8_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((48, 64), 25700, np.uint16)).save(tmp_path / "deep.png")
    code = f"import shutil\nshutil.copy({str(tmp_path / 'deep.png')!r}, output)\n"
    image, hole = scene(48, 64)
    out = d2s.load_guide(command(tmp_path, code))(image, hole)
    assert torch.allclose(out[hole.expand_as(out) > 0], torch.tensor(100 / 127.5 - 1))


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
def test_a_program_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, time\n"
        f"child = subprocess.Popen([{sys.executable!r}, '-I', '-S', '-c',"
        " 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "print('still mixing', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n"
    )
    began = time.monotonic()
    with pytest.raises(WeightsError, match=r"longer than 2 s\nstill mixing"):
        fill(command(tmp_path, code), timeout=2)
    assert time.monotonic() - began < 20
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)


def alive(pid: int) -> bool:
    """False for a process that ended and that nobody has asked about yet, too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", UsageError, "lacks {image}, {mask}, {output}"),
        ("tool {image} {output}", UsageError, "lacks {mask}"),
        ("tool {image} {mask} {output} {size}", UsageError, "nothing stands for {size}"),
        ("tool '{image} {mask} {output}", UsageError, "No closing quotation"),
        ("no-such-tool {image} {mask} {output}", WeightsError, "no program 'no-such-tool'"),
    ],
)
def test_commands_that_cannot_work_are_refused_before_any_picture(
    text: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as raised:
        d2s.load_guide(f"cmd:{text}")
    assert said in str(raised.value)


@pytest.mark.parametrize("value", [0, -3, "soon", True])
def test_a_timeout_is_a_number_of_seconds(tmp_path: Path, value: object) -> None:
    with pytest.raises(UsageError, match="timeout must be a number of seconds"):
        d2s.load_guide(command(tmp_path, COPY), timeout=value)


# other packages

MODULE = """
import torch
from d2s_cli.guides.contract import Guide

class Wall(Guide):
    def __init__(self, shade=0.5, weights=None, device=None):
        self.shade, self.weights, self.device = shade, weights, device
    def fill(self, image, hole, seed):
        if self.shade == "wet":
            raise KeyError("paint")
        return torch.full_like(image, self.shade)

def plain():
    return Wall()

def number():
    return 3

def fails():
    raise RuntimeError("no paint left")

not_callable = 3
"""
ENTRIES = {
    "wall": "walls:Wall",
    "plain": "walls:plain",
    "number": "walls:number",
    "fails": "walls:fails",
    "gone": "walls:Nowhere",
    "value": "walls:not_callable",
    "absent": "no_such_module_here:Wall",
    "telea": "walls:plain",
}


@pytest.fixture
def walls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, "walls", ENTRIES)
    (tmp_path / "walls.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "walls", raising=False)
    return tmp_path


def test_a_package_brings_a_guide(walls: Path) -> None:
    image, hole = scene(48, 64)
    for name in ("wall", "plain"):
        out = d2s.load_guide(name)(image, hole)
        assert torch.equal(out, torch.where(hole > 0, 0.5, image))
        assert name in guide_names()
    assert passed(list(check_guide(d2s.load_guide("wall"))))


def test_a_plug_in_gets_weights_device_and_options(walls: Path) -> None:
    (walls / "a.safetensors").write_bytes(b"")
    guide = d2s.load_guide("wall", weights=walls / "a.safetensors", shade=-0.25)
    assert guide.files == (walls / "a.safetensors",)
    inner = guide.guide  # type: ignore[attr-defined]
    assert (inner.weights, inner.device) == ([walls / "a.safetensors"], torch.device("cpu"))
    assert inner.shade == -0.25
    with pytest.raises(UsageError, match="has no option colour"):
        d2s.load_guide("wall", colour="red")
    with pytest.raises(UsageError, match="plain takes no weights"):
        d2s.load_guide("plain", weights=walls / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("number", "is of type int, not a guide"),
        ("fails", "cannot be used: RuntimeError: no paint left"),
        ("gone", "does not load: AttributeError"),
        ("value", "is no callable"),
        ("absent", "does not load: ModuleNotFoundError"),
    ],
)
def test_a_broken_plug_in_is_an_error_when_asked_for(walls: Path, name: str, said: str) -> None:
    with pytest.raises(WeightsError) as raised:
        d2s.load_guide(name)
    assert said in str(raised.value)
    assert f"guide {name} of walls 1.2" in str(raised.value)


def test_a_plug_in_that_fails_on_a_picture_is_named(walls: Path) -> None:
    with pytest.raises(WeightsError, match=r"guide wall of walls 1\.2 failed: KeyError"):
        d2s.load_guide("wall", shade="wet")(*scene(48, 64))


def test_broken_plug_ins_are_named_and_skipped_in_lists(walls: Path) -> None:
    rows = {row.name: row for row in list_guides()}
    assert rows["wall"].missing == ""
    assert rows["wall"].kind == "plug-in of walls 1.2"
    for name in ("gone", "value", "absent"):
        assert rows[name].missing == "broken"
        assert f"guide {name} of walls 1.2" in rows[name].hint


def test_names_of_d2s_stay_its_own_and_two_packages_cannot_share_one(
    walls: Path, tmp_path: Path
) -> None:
    assert d2s.load_guide("telea")(*scene(9, 9)).shape == (1, 3, 9, 9)
    assert [row.kind for row in list_guides() if row.name == "telea"] == ["built in"]
    install(tmp_path, "fences", {"wall": "walls:Wall"})
    with pytest.raises(WeightsError, match=r"is registered by (fences|walls) 1\.2 and"):
        d2s.load_guide("wall")


# lists


def test_the_list_has_every_guide_and_facts_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D2S_WEIGHTS_DIR", str(tmp_path))
    assert set(FACTS) == {*BUILT_IN, *FROM_WEIGHTS, *BY_PREFIX}
    rows = {row.name: row for row in list_guides()}
    assert {*BUILT_IN, *FROM_WEIGHTS} <= rows.keys()
    assert rows["telea"].missing == ""
    assert rows["lama"].missing == "no weights"


# the check itself


@pytest.mark.parametrize(
    ("fault", "level", "where"),
    [
        ("none", "failed", set()),
        ("nan", "failed", {"sizes", "full hole", "hidden pixels", "same seed", "batch"}),
        ("even", "failed", {"sizes"}),
        ("small", "failed", {"sizes"}),
        ("restless", "failed", {"hidden pixels", "same seed", "batch"}),
        ("batch", "failed", {"batch"}),
        ("peeps", "failed", {"hidden pixels"}),
        ("spills", "failed", {"sizes", "empty hole"}),
        ("writes", "failed", {"sizes"}),
        ("dark", "warning", {"plausible"}),
    ],
)
def test_the_check_finds_broken_promises(fault: str, level: str, where: set[str]) -> None:
    checks = list(check_guide(Crooked(fault)))
    found = {check.name for check in checks if check.level == level}
    assert where <= found
    assert bool(where) == bool(found)
    assert passed(checks) == (level == "warning" or not where)


# the examples in the documentation

DOCS = Path(__file__).resolve().parents[1] / "docs" / "plugins.md"


def blocks(language: str, holding: str) -> list[str]:
    """Code blocks of docs/plugins.md that hold some text."""
    found = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return [block for block in found if holding in block]


def test_the_documented_side_files_are_valid(tmp_path: Path) -> None:
    examples = blocks("toml", "inputs =")
    assert len(examples) == 2
    for text in examples:
        (tmp_path / "m.onnx.toml").write_text(text)
        read_side_file(tmp_path / "m.onnx")
    table = DOCS.read_text()
    assert all(f"| `{field.name}` |" in table for field in dataclasses.fields(SideFile))


def test_the_documented_package_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project,), (module,) = blocks("toml", "d2s-border"), blocks("python", "class Border")
    entries = tomllib.loads(project)["project"]["entry-points"]["d2s.guides"]
    install(tmp_path, "d2s_border", entries)
    (tmp_path / "d2s_border.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    checks = list(check_guide(d2s.load_guide("border", lighter=0.1)))
    assert [check.level for check in checks] == ["ok"] * len(checks), checks


def test_the_documented_export_and_program_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (export,), (tool,) = blocks("python", "class Model"), blocks("python", "cv2.inpaint")
    monkeypatch.chdir(tmp_path)
    Path("export.py").write_text(export)
    Path("fill.py").write_text(tool)
    Path("mean.pt.toml").write_text(blocks("toml", "multiple = 1")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        runpy.run_path("export.py", run_name="export")
    checks = list(check_guide(d2s.load_guide("torchscript:mean.pt")))
    assert [check.level for check in checks] == ["ok"] * len(checks), checks
    guide = d2s.load_guide(f'cmd:"{sys.executable}" fill.py {{image}} {{mask}} {{output}}')
    image, hole = scene(48, 64)
    assert float((guide(image, hole) - image).abs().max()) < 0.5
