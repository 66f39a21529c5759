"""No file runs code, takes much time or memory, or ends in anything but a clear error."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch
from safetensors.torch import save
from typer.testing import CliRunner

from d2s_cli.cli.app import app
from d2s_cli.errors import WeightsError
from d2s_cli.weights.reading import read_weights

REPOSITORY = Path(__file__).resolve().parents[1]
#: for one file, on a busy machine: processor seconds, and bytes above what torch itself takes
SECONDS, MEMORY = 30, 800_000_000

#: reads files in a process of its own, with limits, and says how each ended
READER = f"""
import json, resource, sys, time
from pathlib import Path
import torch
from d2s_cli.errors import WeightsError
from d2s_cli.weights.reading import read_weights

b"x".decode("raw_unicode_escape")  # Python loads its codecs when they are first used
HEARD = []
def listen(event, arguments):
    if event.startswith(("os.", "subprocess.", "socket.", "exec", "compile", "shutil.", "ctypes.")):
        HEARD.append(event)
    elif event == "import" and arguments[0] not in sys.modules:
        HEARD.append("import " + arguments[0])

for line in sys.stdin:
    path = Path(line.strip())
    try:
        read_weights(path)  # once without listening: libraries import parts of themselves
    except Exception:
        pass
    break
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {MEMORY},) * 2)
sys.addaudithook(listen)
for line in sys.stdin:
    path, began = Path(line.strip()), time.process_time()
    HEARD.clear()
    try:
        tensors, _ = read_weights(path)
        ended = "read " + str(len(tensors))
    except WeightsError as error:
        ended = "refused"
        assert error.exit_code == 5 and str(path) in error.message, error
    except BaseException as error:
        ended = type(error).__name__ + ": " + str(error)
    seconds = time.process_time() - began
    print(json.dumps([str(path), ended, seconds, HEARD]), flush=True)
"""


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float, list[str]]]:
    """How reading each hostile file ended, by what it is."""
    folder = tmp_path_factory.mktemp("hostile")
    written = hostile.write_all(folder)
    names = "\n".join(str(path) for path in [written[0][1], *(path for _, path in written)])
    run = subprocess.run(
        [sys.executable, "-c", READER],
        input=names,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (folder / hostile.CANARY).exists()
    assert not (folder.parent / hostile.CANARY).exists()
    what = {str(path): name for name, path in written}
    found: dict[str, Any] = {}
    for path, *rest in map(json.loads, run.stdout.splitlines()):
        found[what[path]] = tuple(rest)
    assert run.returncode == 0, (run.stderr[-2000:], list(found)[-1:])
    assert len(found) == len(written)
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are set as on Linux")
class TestHostileFiles:
    def test_each_is_refused(self, endings: dict[str, tuple[str, float, list[str]]]) -> None:
        assert {what: end[0] for what, end in endings.items() if end[0] != "refused"} == {}

    def test_nothing_is_run(self, endings: dict[str, tuple[str, float, list[str]]]) -> None:
        assert {what: end[2] for what, end in endings.items() if end[2]} == {}

    def test_none_takes_long(self, endings: dict[str, tuple[str, float, list[str]]]) -> None:
        assert {what: end[1] for what, end in endings.items() if end[1] > SECONDS} == {}


@pytest.mark.parametrize("module", ["os", "posix", "builtins"])
def test_a_file_that_asks_to_run_code_is_named_as_such(tmp_path: Path, module: str) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(hostile.pickled(hostile.call(module, "system", hostile.text("true"))))
    with pytest.raises(WeightsError, match=rf"asks to run code when loaded \({module}\.system\)"):
        read_weights(path)


def test_the_command_line_ends_with_exit_code_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D2S_WEIGHTS_DIR", str(tmp_path / "store"))
    path = tmp_path / "evil.pth"
    path.write_bytes(hostile.pickled(hostile.call("os", "system", hostile.text("true"))))
    for words in (["import", str(path), "--as", "lama"], ["info", str(path)]):
        result = CliRunner().invoke(app, ["weights", *words])
        assert isinstance(result.exception, WeightsError)
        assert result.exception.exit_code == 5
    assert not (tmp_path / "store" / "lama").exists()


def containers() -> dict[str, bytes]:
    """A whole file of each container."""
    state = {"a.weight": torch.rand(3, 4), "a.bias": torch.rand(3), "n": torch.tensor(7)}
    zipped, stream = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": state}, zipped)
    torch.save({"state_dict": state}, stream, _use_new_zipfile_serialization=False)
    return {
        "zip": zipped.getvalue(),
        "stream": stream.getvalue(),
        "pickle": pickle.dumps(state),
        "safetensors": save(state),
    }


@pytest.mark.filterwarnings("ignore:invalid escape")
@pytest.mark.parametrize("container", ["zip", "stream", "pickle", "safetensors"])
def test_damage_of_any_kind_is_an_error_or_does_no_harm(tmp_path: Path, container: str) -> None:
    """Bytes changed, cut out, repeated and swapped at random, the same ones in every run."""
    good = containers()[container]
    path = tmp_path / "damaged.pth"
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        data = bytearray(good)
        for _ in range(random.integers(1, 4)):
            start, length = random.integers(len(data)), random.integers(1, 9)
            match random.integers(4):
                case 0:
                    data[start : start + length] = random.bytes(length)
                case 1:
                    del data[start : start + length]
                case 2:
                    data[start:start] = data[start : start + length]
                case 3:
                    data[start] = random.choice(list(b"QRabetu}])(0.\x85\x94\xff\x00"))
        path.write_bytes(data)
        try:
            tensors, _ = read_weights(path)
        except WeightsError:
            refused += 1
        else:
            assert sum(tensor.nbytes for tensor in tensors.values()) <= 4 * len(data)
    assert refused > 40


def test_links_and_what_is_no_file(tmp_path: Path) -> None:
    loop, pipe, away = tmp_path / "a.pth", tmp_path / "pipe.pth", tmp_path / "away.pth"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    away.symlink_to("/dev/zero")
    for path in (loop, pipe, away, tmp_path, tmp_path / "none.pth"):
        with pytest.raises(WeightsError, match="no weights file"):
            read_weights(path)
