"""Which picture formats d2s writes, and the file name endings that mean them."""

from __future__ import annotations

from pathlib import Path

from d2s_cli.errors import InputError, UsageError

#: formats by file name ending; the value is Pillow's name
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
#: endings of pictures that a folder run leaves out, since d2s writes no such files
OTHERS = frozenset(
    ".heic .heif .avif .jxl .jp2 .gif .psd .xcf .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf"
    " .orf .rw2 .pef .srw .3fr .iiq .tga .ppm .pgm .exr .hdr .pdf".split()
)
#: values of --format and the ending that each gives; keep takes the picture's own
CHOICES = {"keep": "", "png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}


def format_of(path: Path) -> str:
    """Pillow's format name for a file name; InputError if d2s writes no such format."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(
            f"d2s writes no picture format called {path.suffix or '(no ending)'}: {path.name}",
            f"use one of: {' '.join(FORMATS)}\ntry: --format png",
        ) from None


def is_lossless(path: Path, quality: int | None) -> bool:
    """True if known pixels come back from a file of this name bit for bit."""
    name = format_of(path)
    return name != "JPEG" and not (name == "WEBP" and quality is not None)


def suffix_for(suffix: str, choice: str) -> str:
    """The ending of a result: the picture's own, unless --format names another format.

    Args:
        suffix: the picture's ending, with its dot.
        choice: a key of CHOICES.

    Raises:
        UsageError: no such choice.
    """
    if choice not in CHOICES:
        raise UsageError(f"unknown --format {choice!r}", f"one of: {', '.join(CHOICES)}")
    chosen = CHOICES[choice]
    same = not chosen or FORMATS.get(suffix.lower()) == FORMATS[chosen]
    return suffix if same else chosen
