"""More of the zoo: odd folders, links and masks. What matters here is where things lie."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image
from zoo import BOX, SIZE, Words, coded, mask, odd, picture, put

from d2s_cli.manifest import MANIFEST_NAME

FILES = "Files that are none, links, folders"


def bare(folder: Path) -> Path:
    """An odd picture whose mask is still to be made."""
    path = put(folder, "odd.png", coded(picture(), "PNG"))
    (folder / "odd_mask.png").unlink()
    return path


@odd(FILES, "a folder named like a picture", "ignored")
def _(folder: Path) -> None:
    (folder / "odd.png").mkdir()


@odd(FILES, "a pipe named like a picture", "ignored")
def _(folder: Path) -> None:
    os.mkfifo(folder / "odd.png")


@odd(FILES, "a pipe, named", "stops", "is no file")
def _(folder: Path) -> Words:
    os.mkfifo(folder / "odd.png")
    return [folder / "odd.png"]


@odd(FILES, "a device, named", "stops", "no file")
def _(folder: Path) -> Words:
    return [Path("/dev/null"), "-m", folder / "good_mask.png", "-o", folder.parent / "out.png"]


@odd(FILES, "a pipe named like a mask", "refused", "no mask for")
def _(folder: Path) -> None:
    bare(folder)
    os.mkfifo(folder / "odd_mask.png")


@odd(FILES, "a pipe as --mask", "stops", "no file")
def _(folder: Path) -> Words:
    os.mkfifo(folder / "pipe.png")
    return [folder / "good.png", "-m", folder / "pipe.png"]


@odd(FILES, "a device as --mask", "stops", "no file")
def _(folder: Path) -> Words:
    return [folder / "good.png", "-m", "/dev/zero"]


@odd(FILES, "a folder named like a mask", "refused", "no mask for")
def _(folder: Path) -> None:
    bare(folder)
    (folder / "odd_mask.png").mkdir()


@odd(FILES, "a link to a picture", "restored")
def _(folder: Path) -> None:
    (folder / "elsewhere").write_bytes(coded(picture(), "PNG"))
    (folder / "odd.png").symlink_to("elsewhere")
    mask().save(folder / "odd_mask.png")


@odd(FILES, "a link to nothing", "refused", "is a link to nothing")
def _(folder: Path) -> None:
    (folder / "odd.png").symlink_to("gone.png")
    mask().save(folder / "odd_mask.png")


@odd(FILES, "a link to itself", "refused", "is a link to nothing")
def _(folder: Path) -> None:
    (folder / "odd.png").symlink_to("odd.png")
    mask().save(folder / "odd_mask.png")


@odd(FILES, "a mask that is a link to nothing", "refused", "is a link to nothing")
def _(folder: Path) -> None:
    bare(folder)
    (folder / "odd_mask.png").symlink_to("gone.png")


@odd(FILES, "a link to the folder it is in, with -r", "ignored")
def _(folder: Path) -> Words:
    (folder / "odd").symlink_to(folder)
    return [folder, "-r", "-o", folder.parent / "out"]


@odd(FILES, "no pictures at all", "stops", "no pictures in")
def _(folder: Path) -> Words:
    (folder.parent / "empty").mkdir()
    return [folder.parent / "empty"]


@odd(FILES, "pictures, and a mask for none of them", "stops", "no mask for")
def _(folder: Path) -> Words:
    bare(folder)
    (folder / "good_mask.png").unlink()
    return [folder]


# where results go

RESULTS = "Where results go"


@odd(RESULTS, "--output is the picture", "stops", "would overwrite an input")
def _(folder: Path) -> Words:
    return [folder / "good.png", "-o", folder / "good.png", "-f"]


@odd(RESULTS, "--output is the mask", "stops", "would overwrite an input")
def _(folder: Path) -> Words:
    return [folder / "good.png", "-o", folder / "good_mask.png", "-f"]


@odd(RESULTS, "--output is a link to the picture", "stops", "would overwrite an input")
def _(folder: Path) -> Words:
    (folder.parent / "link.png").symlink_to(folder / "good.png")
    return [folder / "good.png", "-o", folder.parent / "link.png", "-f"]


@odd(RESULTS, "--output is the folder of the pictures", "stops", "would overwrite an input")
def _(folder: Path) -> Words:
    return [folder, "-o", folder]


@odd(RESULTS, "--output lies in the folder of the pictures, with -r, second run", "ignored")
def _(folder: Path) -> Words:
    out = folder / "out"
    out.mkdir()
    put(out, "before.png", coded(picture(), "PNG"))  # as if left by a first run
    return [folder, "-r", "-o", out]


@odd(RESULTS, "--mask is a folder within the pictures', with -r", "ignored")
def _(folder: Path) -> Words:
    (folder / "holes").mkdir()
    mask().save(folder / "holes" / "good.png")
    return [folder, "-r", "-m", folder / "holes", "-o", folder.parent / "out"]


@odd(RESULTS, "--mask is a file in the folder of the pictures", "ignored")
def _(folder: Path) -> Words:
    (folder / "good_mask.png").rename(folder / "logo.png")
    return [folder, "-m", folder / "logo.png", "-o", folder.parent / "out"]


@odd(RESULTS, "--output is a file, for a folder", "stops", "is a file")
def _(folder: Path) -> Words:
    (folder.parent / "out").write_text("mine")
    return [folder, "-o", folder.parent / "out"]


@odd(RESULTS, "a folder lies where the result would go", "refused", "cannot write")
def _(folder: Path) -> Words:
    image = put(folder, "odd.png", coded(picture(), "PNG"))
    (folder.parent / "out" / image.name).mkdir(parents=True)
    return [folder, "-o", folder.parent / "out"]


@odd(RESULTS, "--output in folders that are not there yet", "restored")
def _(folder: Path) -> Words:
    put(folder, "odd.png", coded(picture(), "PNG"))
    return [folder, "-o", folder.parent / "a" / "b" / "c"]


@odd(RESULTS, "a result of that name, for one picture", "stops", "exists already")
def _(folder: Path) -> Words:
    (folder / "good_d2s.png").write_text("mine")
    return [folder / "good.png"]


MANIFESTS = "Manifests"


def _broken_manifest(title: str, text: str | bytes) -> None:
    @odd(MANIFESTS, title, "restored")
    def _(folder: Path) -> Words:
        put(folder, "odd.png", coded(picture(), "PNG"))
        out = folder.parent / "out"
        out.mkdir()
        data = text if isinstance(text, bytes) else text.replace("OUT", str(out)).encode()
        (out / MANIFEST_NAME).write_bytes(data)
        (out / "odd.png").write_bytes(b"from before")
        return [folder, "-o", out]


_LINE = '{"schema": 1, "status": "done", "output": %s}\n'
_broken_manifest("noise", np.random.default_rng(0).bytes(2000))
_broken_manifest("a line cut short", '{"schema": 1, "sta')
_broken_manifest("lines that are no objects", '[1, 2]\n"text"\n3\nnull\n')
_broken_manifest("another schema", '{"schema": 99, "output": {"path": "OUT/odd.png"}}\n')
_broken_manifest("an output that is no object", _LINE % '"OUT/odd.png"')
_broken_manifest("an output without a path", _LINE % '{"size": 3}')
_broken_manifest("a path that is no text", _LINE % '{"path": 7}')
_broken_manifest("an output without checksum", _LINE % '{"path": "OUT/odd.png"}')
_broken_manifest("no status", '{"schema": 1, "output": {"path": "OUT/odd.png"}}\n')
_broken_manifest("brackets 100,000 deep", "[" * 100_000 + "\n")
_broken_manifest("a number of 10,000 digits", '{"schema": ' + "1" * 10_000 + "}\n")


@odd(MANIFESTS, "a folder of that name", "stops", "cannot read")
def _(folder: Path) -> Words:
    (folder.parent / "out" / MANIFEST_NAME).mkdir(parents=True)
    return [folder, "-o", folder.parent / "out"]


@odd(MANIFESTS, "an entry of a result that was changed by hand", "restored")
def _(folder: Path) -> Words:
    put(folder, "odd.png", coded(picture(), "PNG"))
    out = folder.parent / "out"
    out.mkdir()
    (out / "odd.png").write_bytes(b"changed")
    record = {"path": str(out / "odd.png"), "sha256": "0" * 64, "size": 7}
    line = {"schema": 1, "status": "done", "output": record}
    (out / MANIFEST_NAME).write_text(json.dumps(line) + "\n")
    return [folder, "-o", out]


# masks

MASKS = "Masks"


def _masked(folder: Path, hole: Image.Image | bytes, name: str = "odd_mask.png") -> None:
    bare(folder)
    if isinstance(hole, Image.Image):
        hole.save(folder / name)
    else:
        (folder / name).write_bytes(hole)


def _grey() -> np.ndarray:
    return np.asarray(mask())


@odd(MASKS, "none", "refused", "no mask for")
def _(folder: Path) -> None:
    bare(folder)


@odd(MASKS, "black all over", "copied", "marks no hole")
def _(folder: Path) -> None:
    _masked(folder, mask(box=(0, 0, 0, 0)))


@odd(MASKS, "white all over", "refused", "whole picture")
def _(folder: Path) -> None:
    _masked(folder, mask(box=(0, 0, *SIZE)))


@odd(MASKS, "inverted", "restored", "is it inverted?")
def _(folder: Path) -> None:
    _masked(folder, Image.fromarray(255 - _grey()))


@odd(MASKS, "another size", "refused", "differ in size")
def _(folder: Path) -> None:
    _masked(folder, mask((SIZE[0] + 1, SIZE[1])))


@odd(MASKS, "width and height swapped", "refused", "differ in size")
def _(folder: Path) -> None:
    _masked(folder, mask(SIZE[::-1], (6, 8, 14, 16)))


@odd(MASKS, "16 bits", "restored")
def _(folder: Path) -> None:
    _masked(folder, Image.fromarray(_grey().astype(np.uint16) * 257))


@odd(MASKS, "32-bit numbers", "restored")
def _(folder: Path) -> None:
    _masked(folder, Image.fromarray(_grey().astype(np.int32)), "odd_mask.tif")


@odd(MASKS, "1 bit", "restored")
def _(folder: Path) -> None:
    _masked(folder, mask().convert("1"))


@odd(MASKS, "palette", "restored")
def _(folder: Path) -> None:
    image = Image.fromarray((_grey() > 0).astype(np.uint8) * 3)
    image = image.convert("P")
    image.putpalette([0, 0, 0] * 3 + [255, 255, 255])
    _masked(folder, image)


@odd(MASKS, "RGB", "restored")
def _(folder: Path) -> None:
    _masked(folder, mask().convert("RGB"))


@odd(MASKS, "CMYK", "restored")
def _(folder: Path) -> None:
    _masked(folder, mask().convert("CMYK"), "odd_mask.tif")


@odd(MASKS, "white and black, opaque all over", "restored")
def _(folder: Path) -> None:
    _masked(folder, mask().convert("RGBA"))


@odd(MASKS, "white strokes on a transparent white ground", "restored")
def _(folder: Path) -> None:
    image = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    image.putalpha(mask())
    _masked(folder, image)


@odd(MASKS, "black strokes on a transparent black ground", "restored")
def _(folder: Path) -> None:
    image = Image.new("LA", SIZE, (0, 0))
    image.putalpha(mask())
    _masked(folder, image)


@odd(MASKS, "JPEG", "restored")
def _(folder: Path) -> None:
    _masked(folder, coded(mask(), "JPEG", quality=30), "odd_mask.jpg")


@odd(MASKS, "floating-point numbers with NaN and infinity", "restored")
def _(folder: Path) -> None:
    data = _grey().astype(np.float32) / 255
    data[0, 0], data[0, 1] = np.nan, -np.inf
    _masked(folder, Image.fromarray(data), "odd_mask.tif")


@odd(MASKS, "floating-point numbers to 255", "restored")
def _(folder: Path) -> None:
    _masked(folder, Image.fromarray(_grey().astype(np.float32)), "odd_mask.tif")


@odd(MASKS, "the picture itself", "stops", "no transparency")
def _(folder: Path) -> Words:
    return [folder / "good.png", "-m", folder / "good.png"]


@odd(MASKS, "cut short", "refused", "cannot read mask")
def _(folder: Path) -> None:
    _masked(folder, coded(mask(), "PNG")[:50])


@odd(MASKS, "text", "refused", "cannot read mask")
def _(folder: Path) -> None:
    _masked(folder, b"white where pixels are missing")


@odd(MASKS, "empty file", "refused", "cannot read mask")
def _(folder: Path) -> None:
    _masked(folder, b"")


@odd(MASKS, "two for one picture", "restored")
def _(folder: Path) -> None:
    bare(folder)
    mask().save(folder / "odd_mask001.png")
    mask(box=(0, 0, 5, 5)).save(folder / "odd_mask002.png")


@odd(MASKS, "two of one name", "stops", "two results have one name")
def _(folder: Path) -> Words:
    holes = folder.parent / "holes"
    holes.mkdir()
    mask().save(holes / "good.png")
    mask().save(holes / "good.bmp")
    return [folder, "-m", holes, "-o", folder.parent / "out"]


@odd(MASKS, "one pixel at the very corner", "restored")
def _(folder: Path) -> None:
    _masked(folder, mask(box=(SIZE[0] - 1, SIZE[1] - 1, *SIZE)))


@odd(MASKS, "all but one pixel", "restored")
def _(folder: Path) -> None:
    hole = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    hole[BOX[1], BOX[0]] = 0
    _masked(folder, Image.fromarray(hole))


@odd(MASKS, "every other pixel", "restored")
def _(folder: Path) -> None:
    hole = np.indices((SIZE[1], SIZE[0])).sum(0) % 2 * 255
    _masked(folder, Image.fromarray(hole.astype(np.uint8)))


@odd(MASKS, "--grow beyond the picture", "stops", "whole picture")
def _(folder: Path) -> Words:
    return [folder / "good.png", "--grow", 500]


@odd(MASKS, "--grow -100", "copied", "marks no hole")
def _(folder: Path) -> Words:
    put(folder, "odd.png", coded(picture(), "PNG"))
    return [folder, "--grow", -100, "-o", folder.parent / "out"]
