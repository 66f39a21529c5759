"""Where the weights of metrics lie, and what to type when they are not there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from d2s_cli.errors import WeightsError
from d2s_cli.weights.store import installed_files, is_installed, read_record, store_folder


@dataclass(frozen=True)
class MetricFile:
    """A published file.

    Attributes:
        files: names under which it is found, the usual one first.
        sha256: of the published bytes; None where its authors state none.
        what: it is, for messages.
    """

    files: tuple[str, ...]
    sha256: str | None
    what: str


FILES = {
    "inception-fid": MetricFile(
        (
            "pt_inception-2015-12-05-6726825d.pth",
            "weights-inception-2015-12-05-6726825d.pth",
            "inception-2015-12-05.pt",
        ),
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "Inception network of FID, 96 MB",
    ),
    "lpips-alex": MetricFile(
        ("lpips-alex.safetensors", "lpips-alex.pth", "alex.pth"),
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        "LPIPS heads for AlexNet, 6 kB",
    ),
    "lpips-vgg": MetricFile(
        ("lpips-vgg.safetensors", "lpips-vgg.pth", "vgg.pth"),
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        "LPIPS heads for VGG-16, 7 kB",
    ),
    "lpips-alex-trunk": MetricFile(
        ("alexnet-owt-7be5be79.pth",), None, "AlexNet trained on ImageNet, 233 MB"
    ),
    "lpips-vgg-trunk": MetricFile(
        ("vgg16-397923af.pth",),
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "VGG-16 trained on ImageNet, 528 MB",
    ),
}


def metric_weights(name: str, given: Path | None = None) -> Path:
    """The file of a metric's weights.

    Args:
        name: a key of FILES.
        given: by the user for this name, or None to look in the weights folder.

    Raises:
        WeightsError: not there; says what to type.
    """
    wanted = FILES[name]
    if given is not None:
        if not given.is_file():
            raise WeightsError(f"no weights file at {given}", f"wanted: {wanted.what}")
        return given
    if is_installed(name):
        return installed_files(name)[0]
    folder, entry = store_folder(), name.removesuffix("-trunk")
    for path in (place / file for place in (folder / entry, folder) for file in wanted.files):
        if path.is_file():
            return path
    file = wanted.files[0] if wanted.files[0].endswith(".pth") else wanted.files[-1]
    raise WeightsError(
        f"no weights for {name} ({wanted.what}): looked in {folder} for {file}",
        f"fetch them:        d2s weights pull {entry}\n"
        f"or take a file in: d2s weights import {file}\n"
        f"or name it:        --metric-weights {name}=FILE",
    )


def published_hash(name: str, path: Path, digest: str) -> str:
    """SHA-256 of the file as it was published: of what an installed file was converted from, or
    else the file's own, `digest`."""
    if (record := read_record(name)) is not None:
        for file in record.files:
            if record.folder / file.name == path:
                return file.source_sha256
    return digest
