"""Does a killed run, resumed by the same command, end as an undisturbed one?

Run from the repository root:

    python benchmarks/kill_resume.py --kills 200

A folder of small pictures in several formats is restored once undisturbed. Then the same command is
started again and again, each time killed with SIGKILL at a random moment (before, while and after
results are written), until it ends by itself; the results must be the same bytes. That is repeated
with a fresh output folder until there were enough kills. Every other run refines with a few steps.

Runs are forks of one process that has torch loaded, so that a kill meets work and not start-up.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d2s_cli.diffusion.refiner import RefinerConfig
from d2s_cli.diffusion.unet import UNet, UNetConfig
from d2s_cli.engine import inpaint
from d2s_cli.manifest import FINISHED, MANIFEST_NAME, read_manifest
from d2s_cli.weights.reading import write_safetensors

UNET = UNetConfig(inner_channels=32, channel_mults=(1, 2), res_blocks=1, unshuffle=2)
SIZE = (450, 330)
#: endings of the pictures in turn
ENDINGS = (".png", ".jpg", ".tif", ".webp")


def make_weights(path: Path) -> Path:
    """A tiny refiner of random numbers: what it makes is the same each time, and quick."""
    torch.manual_seed(0)
    defaults = {"*": {"tk": 60, "steps": 2, "sampler": "dpmpp-sde", "inject": False}}
    config = RefinerConfig(unet=UNET, prediction="v", tile=128, defaults=defaults)
    write_safetensors(path, UNet(UNET).state_dict(), config.to_json())
    return path


def make_pictures(folder: Path, count: int) -> None:
    """Noise that JPEG codes well, each with a hole or two."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
        picture = Image.fromarray(cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC))
        ending = ENDINGS[number % len(ENDINGS)]
        picture.save(folder / f"p{number:03d}{ending}", lossless=True)
        hole = np.zeros(SIZE[::-1], np.uint8)
        for _ in range(rng.integers(1, 3)):
            x, y = rng.integers(0, SIZE[0] - 20), rng.integers(0, SIZE[1] - 20)
            hole[y : y + 20, x : x + 20] = 255
        Image.fromarray(hole).save(folder / f"p{number:03d}_mask.png")


@dataclass
class Round:
    """One output folder: runs that were killed, and where they were.

    Attributes:
        moments: results that were there at each kill.
        partial: kills that left a half-written file for the next run to replace.
    """

    moments: list[int] = field(default_factory=list)
    partial: int = 0


def run(pictures: Path, output: Path, settings: dict[str, Any]) -> int:
    """Fork a run; returns its process number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            entries = inpaint(pictures, output=output, if_exists="resume", **settings)
            code = int(any(entry["status"] == "failed" for entry in entries))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def wait(child: int, seconds: float) -> int | None:
    """Exit code of a process, None if it still runs after that time."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.0005)


def results(folder: Path) -> dict[str, bytes]:
    """All files but the manifest."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST_NAME)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def until_done(
    pictures: Path, output: Path, settings: dict[str, Any], typical: float, rng: random.Random
) -> Round:
    """Start, kill and start again until a run ends by itself.

    Args:
        typical: seconds that a whole run takes; kills fall within a random part of it.

    Raises:
        RuntimeError: a run failed.
    """
    found = Round()
    while True:
        child = run(pictures, output, settings)
        code = wait(child, rng.random() ** 2 * typical)
        if code is None:
            os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return found
        if code != -signal.SIGKILL:
            raise RuntimeError(f"a run ended with {code}")
        names = list(results(output)) if output.exists() else []
        found.moments.append(sum(".part" not in name for name in names))
        found.partial += any(".part" in name for name in names)


def check(undisturbed: Path, output: Path) -> list[str]:
    """What differs between two output folders; nothing should."""
    before, after = results(undisturbed), results(output)
    faults = [f"{name} is missing" for name in before.keys() - after.keys()]
    faults += [f"{name} is too many" for name in after.keys() - before.keys()]
    faults += [f"{k} differs" for k in before.keys() & after.keys() if before[k] != after[k]]
    entries = list(read_manifest(output / MANIFEST_NAME))
    last = {Path(entry["output"]["path"]).name: entry for entry in entries}
    faults += [f"{name} is not in the manifest" for name in before.keys() - last.keys()]
    faults += [f"{k}: {e['status']}" for k, e in last.items() if e["status"] not in FINISHED]
    return faults


@contextlib.contextmanager
def working_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="d2s-kill-") as name:
        yield Path(name)


def kill_runs(folder: Path, kills: int, count: int, seed: int) -> tuple[list[Round], list[str]]:
    """Rounds until there were enough kills, and all that differed in any of them."""
    rng = random.Random(seed)
    pictures, weights = folder / "pictures", make_weights(folder / "tiny.safetensors")
    make_pictures(pictures, count)
    base = {"guide": "telea", "weights": str(weights), "device": "cpu", "precision": "fp32"}
    kinds: list[dict[str, Any]] = [{**base, "tk": 0}, base]
    undisturbed, typical = [], []
    for number, settings in enumerate(kinds):
        output = folder / f"undisturbed{number}"
        began = time.monotonic()
        if wait(run(pictures, output, settings), 600) != 0:
            raise RuntimeError("the undisturbed run failed")
        undisturbed.append(output)
        typical.append(time.monotonic() - began)
    rounds: list[Round] = []
    faults: list[str] = []
    while sum(len(one.moments) for one in rounds) < kills:
        kind = len(rounds) % len(kinds)
        output = folder / "killed"
        rounds.append(until_done(pictures, output, kinds[kind], typical[kind], rng))
        faults += check(undisturbed[kind], output)
        shutil.rmtree(output)
    return rounds, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="work here and keep it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with working_folder(asked.folder) as folder:
        rounds, faults = kill_runs(folder, asked.kills, asked.pictures, asked.seed)
    moments = [moment for one in rounds for moment in one.moments]
    between = sum(0 < moment < asked.pictures for moment in moments)
    print(
        f"{len(moments)} kills in {len(rounds)} output folders of {asked.pictures} pictures,"
        f" {time.monotonic() - began:.0f} s: {between} with some results done and some not,"
        f" {sum(one.partial for one in rounds)} with a half-written file"
    )
    print(f"differences from the undisturbed folders: {len(faults)}")
    for fault in faults:
        print(f"  {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
