"""What d2s and IOPaint do to the same pictures and masks: kinds of file, metadata, names, mistakes.

    python benchmarks/iopaint_compare.py --iopaint /path/to/iopaint

Both fill with OpenCV's Telea (`iopaint run --model=cv2`, `d2s inpaint --guide telea --tk 0`), which
needs no weights. Prints one row for each picture; see robustness.md for the last run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

SIZE = (96, 80)


def scene() -> np.ndarray:
    """A ramp with grain, H x W x 3."""
    width, height = SIZE
    ramp = np.linspace(40, 200, width)[None, :, None] + np.linspace(0, 30, height)[:, None, None]
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return np.clip(ramp + grain, 0, 255).astype(np.uint8)


def save_rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    Image.fromarray(scene()).save(path, exif=exif, quality=92, dpi=(300, 300))


def save_text(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A picture")
    Image.fromarray(scene()).save(path, pnginfo=info, dpi=(300, 300))


def save_pages(path: Path) -> None:
    pages = [Image.fromarray(scene()), Image.fromarray(255 - scene())]
    pages[0].save(path, save_all=True, append_images=pages[1:])


KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "PNG, palette": ("a.png", lambda p: Image.fromarray(scene()).quantize(32).save(p)),
    "PNG with text and dpi": ("a.png", save_text),
    "JPEG, turned by EXIF, 300 dpi": ("a.jpg", save_rotated),
    "WebP, lossless": ("a.webp", lambda p: Image.fromarray(scene()).save(p, lossless=True)),
    "TIFF of two pages": ("a.tif", save_pages),
    "BMP": ("a.bmp", lambda p: Image.fromarray(scene()).save(p)),
    "name with spaces and other letters": (
        "café 写真.png",
        lambda p: Image.fromarray(scene()).save(p),
    ),
}


def look(source: Path, folder: Path, hole: np.ndarray) -> str:
    """What became of a picture, in words."""
    results = [
        p for p in sorted(folder.rglob("*")) if p.suffix not in (".jsonl", "") and p.is_file()
    ]
    if not results:
        return "no result"
    path = results[0]
    with Image.open(source) as before, Image.open(path) as after:
        words = [f"{after.format}, {after.mode}"]
        if path.name != source.name:
            words.append(f"named {path.name}")
        if getattr(before, "n_frames", 1) != getattr(after, "n_frames", 1):
            words.append(f"{getattr(after, 'n_frames', 1)} page of {before.n_frames}")
        if before.getexif().get(0x0112) != after.getexif().get(0x0112):
            words.append(
                "orientation flag gone" + (", turned" if before.size != after.size else "")
            )
        if before.getexif().get(0x010F) != after.getexif().get(0x010F):
            words.append("other EXIF gone")
        if before.info.get("dpi") and not after.info.get("dpi"):
            words.append("dpi gone")
        if before.info.get("Title") != after.info.get("Title"):
            words.append("text gone")
        if before.size == after.size:
            a, b = (np.asarray(x.convert("RGB")).astype(int) for x in (before, after))
            change = np.abs(a - b).max(axis=2)[~hole]
            changed = int((change > 0).sum())
            words.append(
                f"{changed} known pixels changed"
                + (f", by up to {change.max()}" if changed else "")
            )
    return ", ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--iopaint", required=True, help="its program")
    given = parser.parse_args()
    hole = np.zeros((SIZE[1], SIZE[0]), bool)
    hole[30:50, 40:60] = True
    print("| picture | IOPaint | d2s |\n| --- | --- | --- |")
    for kind, (name, save) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for part in ("in", "masks", "iopaint", "d2s"):
                (root / part).mkdir()
            source = root / "in" / name
            save(source)
            mask = root / "masks" / f"{source.stem}.png"
            Image.fromarray(hole.astype(np.uint8) * 255).save(mask)
            theirs = ["--model=cv2", "--device=cpu", f"--output={root / 'iopaint'}"]
            ours = ["--mask", str(root / "masks"), "-o", str(root / "d2s"), "-g", "telea"]
            commands = {
                "iopaint": [
                    *(given.iopaint, "run", *theirs),
                    *(f"--image={root / 'in'}", f"--mask={root / 'masks'}"),
                ],
                "d2s": [
                    *(sys.executable, "-m", "d2s_cli", "inpaint", str(root / "in")),
                    *(*ours, "--tk", "0", "--no-correct"),
                ],
            }
            cells = []
            for tool, command in commands.items():
                run = subprocess.run(command, capture_output=True, text=True, timeout=300)
                what = look(source, root / tool, hole)
                cells.append(what + (f" (exit {run.returncode})" if run.returncode else ""))
            print(f"| {kind} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
