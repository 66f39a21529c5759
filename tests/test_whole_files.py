"""Several runs that write into one folder: no file is half a file, and no line is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from d2s_cli.errors import InputError
from d2s_cli.images.whole_files import partial_path, whole_file
from d2s_cli.manifest import MANIFEST_NAME, read_manifest

#: writes a file of one letter again and again, in several pieces
WRITER = """
import sys
from pathlib import Path
from d2s_cli.images.whole_files import whole_file
for _ in range(100):
    with whole_file(Path(sys.argv[1])) as file:
        for _ in range(4):
            file.write(sys.argv[2].encode() * 5000)
            file.flush()
"""
#: tells the manifest of results
TELLER = """
import sys
from pathlib import Path
from d2s_cli.manifest import Manifest
manifest = Manifest(Path(sys.argv[1]))
for i in range(40):
    path = f"{sys.argv[2]}{i}.png"
    manifest.append({"schema": 1, "status": "done", "output": {"path": path}, "boxes": [i] * 9000})
"""
#: stops in the middle
HANGER = """
import sys, time
from pathlib import Path
from d2s_cli.images.whole_files import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("half", flush=True)
    time.sleep(60)
"""


def start(script: str, *words: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(path: Path, error: Exception) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise error


def write_and_lose(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        os.unlink(partial_path(path))


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    with whole_file(path) as first:
        first.write(b"first, ")
        with whole_file(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b"whole")
    assert path.read_bytes() == b"first, whole"
    assert names(path.parent) == ["a.png"]


def test_a_writer_that_fails_takes_nothing_of_another_along(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with whole_file(path) as first:
        first.write(b"first")
        with pytest.raises(InputError, match="no room"):
            write_and_fail(path, OSError("no room"))
        assert names(tmp_path) == [partial_path(path).name]
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["a.png"]


def test_processes_that_write_one_file_leave_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    writers = [start(WRITER, path, letter) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            data = path.read_bytes()
            assert data in (b"a" * 20000, b"b" * 20000)
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert names(tmp_path) == ["a.png"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
@pytest.mark.parametrize("killed", [1, 2])
def test_what_killed_runs_leave_is_written_over_at_once(tmp_path: Path, killed: int) -> None:
    path = tmp_path / "a.png"
    runs = []
    for _ in range(killed):
        runs.append(start(HANGER, path))
        assert runs[-1].stdout is not None
        assert runs[-1].stdout.readline() == b"half\n"
    assert len(names(tmp_path)) == killed
    for run in runs:
        run.kill()
        run.communicate()
    with whole_file(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["a.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses to remove an open file")
def test_a_file_removed_under_a_writer_is_said_and_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(InputError, match="cannot write"):
        write_and_lose(path)
    assert names(tmp_path) == []


def test_processes_that_share_a_manifest_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    tellers = [start(TELLER, path, letter) for letter in "ab"]
    assert [teller.communicate()[1] for teller in tellers] == [b"", b""]
    found = {entry["output"]["path"] for entry in read_manifest(path)}
    assert found == {f"{letter}{i}.png" for letter in "ab" for i in range(40)}
    lines = filter(None, path.read_text().splitlines())
    assert sum(bool(json.loads(line)) for line in lines) == 80
