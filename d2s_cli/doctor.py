"""Can d2s run here, and if not, what to do: versions, folders, devices, weights, guides.

Nothing is imported above that may be broken: that torch or OpenCV do not load is a finding.
"""

from __future__ import annotations

import getpass
import importlib
import importlib.metadata
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2s_cli import __version__
from d2s_cli.errors import D2SError, InputError

#: packages that d2s does not run without, by the name that pip knows
NEEDED = ("torch", "numpy", "pillow", "opencv-python-headless", "safetensors")
OPTIONAL = ("pypatchmatch",)
#: the modules that those packages are imported as
MODULES = ("torch", "numpy", "PIL", "cv2", "safetensors")
#: what a broken library raises when it is used
BROKEN = (D2SError, RuntimeError, OSError, ImportError)


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        level: "ok", "warning" (d2s runs with less) or "error" (it does not run).
        text: what was found.
        hint: what to do; empty if all is well.
    """

    level: str
    text: str
    hint: str = ""


def examine(quick: bool = False, run: bool = False) -> Iterator[Finding]:
    """All findings, quick ones first.

    Args:
        quick: those that load no library.
        run: restore a picture too.
    """
    yield from check_versions()
    yield from check_folders({"current folder": Path(), "temporary folder": None})
    if quick:
        return
    broken = list(check_imports())
    yield from broken
    if broken:
        return
    yield from check_devices()
    yield from check_weights()
    yield from check_installed()
    yield from check_guides()
    if run:
        yield from check_run()


def can_run(findings: Iterable[Finding]) -> bool:
    return all(finding.level != "error" for finding in findings)


def check_versions() -> Iterator[Finding]:
    """d2s, Python, the system, and the packages that do the work."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Finding("ok", f"d2s {__version__}, Python {platform.python_version()}, {system}")
    for name in (*NEEDED, *OPTIONAL):
        try:
            yield Finding("ok", f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            level = "error" if name in NEEDED else "warning"
            yield Finding(level, f"{name} is not installed", f"try: pip install {name}")


def check_imports() -> Iterator[Finding]:
    """Packages that are there and do not load."""
    for package, module in zip(NEEDED, MODULES, strict=True):
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            hint = f"try: pip install --force-reinstall {package}"
            yield Finding("error", f"{package} does not load: {_first_line(error)}", hint)


def check_folders(folders: dict[str, Path | None]) -> Iterator[Finding]:
    """Whether files can be written where they may have to be; None is the temporary folder."""
    for name, folder in folders.items():
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"d2s")
        except OSError as error:
            hint = "try: --output FOLDER somewhere else"
            yield Finding("warning", f"{name}: cannot be written ({error.strerror})", hint)
        else:
            yield Finding("ok", f"{name}: can be written")


def check_devices() -> Iterator[Finding]:
    """Every device, the format that `auto` takes, and a convolution in each format."""
    from d2s_cli.runtime import pick, precision_error, precisions_to_test, within_limits

    yield Finding("ok", f"device auto is: {pick()}")
    for compute in precisions_to_test():
        level = "error" if compute.device.type == "cpu" else "warning"
        hint = "try: --precision fp32" if compute.device.type == "cpu" else "try: --device cpu"
        try:
            error = precision_error(compute)
        except RuntimeError as failure:
            reason = str(failure).partition("\n")[0]
            yield Finding(level, f"{compute}: does not compute ({reason})", hint)
            continue
        if within_limits(compute, error):
            yield Finding("ok", f"{compute}: computes, off by {error:.0e}")
        else:
            yield Finding(level, f"{compute}: computes wrongly, off by {error:.0e}", hint)


def check_weights() -> Iterator[Finding]:
    """Bundled weights are there and fit their network."""
    from d2s_cli.diffusion.loading import load_refiner
    from d2s_cli.weights.bundled import bundled_weights

    bundled = bundled_weights()
    if not bundled:
        hint = "try: pip install --force-reinstall d2s, or always give --weights FILE"
        yield Finding("error", "no bundled weights were found", hint)
    for name, path in bundled.items():
        try:
            load_refiner(path)
        except BROKEN as error:
            hint = "try: pip install --force-reinstall d2s"
            yield Finding("error", f"weights {name}: {_first_line(error)}", hint)
        else:
            yield Finding("ok", f"weights {name}: {path.stat().st_size / 1e6:.1f} MB, load")


def check_installed() -> Iterator[Finding]:
    """Entries of the weights folder are whole; their hashes are for `d2s weights verify`."""
    from d2s_cli.weights.store import damaged, how_to_get, installed

    for name, record in installed().items():
        gone = [path.name for path in record.paths() if not path.is_file()]
        if lacking := [*record.missing(), *gone]:
            text = f"weights {name}: lack {', '.join(lacking)}"
            yield Finding("warning", text, how_to_get(name))
        else:
            yield Finding("ok", f"weights {name}: installed")
    for name, error in damaged().items():
        yield Finding("warning", f"weights {name}: {error.message}", error.hint)


def check_guides() -> Iterator[Finding]:
    """Every guide fills a small hole; one that works is enough. Plug-ins have to load."""
    import torch

    from d2s_cli.guides.registry import BUILT_IN, load_guide, plugins

    image = torch.linspace(-1, 1, 3 * 48 * 48).reshape(1, 3, 48, 48)
    hole = torch.zeros(1, 1, 48, 48)
    hole[..., 20:28, 20:28] = 1
    working = 0
    for name in BUILT_IN:
        try:
            load_guide(name)(image, hole)
        except BROKEN as error:
            hint = error.hint if isinstance(error, D2SError) else f"do without --guide {name}"
            yield Finding("warning", f"guide {name}: {_first_line(error)}", hint)
        else:
            working += 1
            yield Finding("ok", f"guide {name}: works")
    for plugin in plugins().values():
        try:
            plugin.factory()
        except D2SError as error:
            yield Finding("warning", error.message, error.hint)
        else:
            yield Finding("ok", f"guide {plugin.name} of {plugin.origin}: loads")
    if not working:
        yield Finding("error", "no guide works here", "try: pip install --force-reinstall d2s")


def check_run() -> Iterator[Finding]:
    """A drawn picture is restored from file to file: guide, refinement, writing, reading back."""
    import numpy as np

    from d2s_cli.engine import inpaint
    from d2s_cli.images.drawings import write_drawing

    side, hole = 256, np.s_[96:160, 96:160]
    across = np.linspace(40, 200, side, dtype=np.float32)
    grain = np.random.default_rng(0).normal(0, 6, (side, side, 3))
    picture = (across[None, :, None] / 2 + across[:, None, None] / 2 + grain).astype(np.uint8)
    mask = np.zeros((side, side), np.uint8)
    picture[hole], mask[hole] = 0, 255
    hint = "try: d2s inpaint on a picture of yours, and report what it says"
    with tempfile.TemporaryDirectory(prefix="d2s-doctor-") as name:
        image, beside = Path(name) / "picture.png", Path(name) / "picture_mask.png"
        try:
            write_drawing(picture, image)
            write_drawing(mask, beside)
            (entry,) = inpaint(image, beside, tk=50, steps=2)
        except BROKEN as error:
            hint = error.hint if isinstance(error, D2SError) else hint
            yield Finding("error", f"a run: {_first_line(error)}", hint)
            return
    if entry["status"] != "done" or entry["changed_outside"]:
        reason = entry.get("error", {}).get("message", "known pixels changed")
        yield Finding("error", f"a run: {reason}", hint)
    else:
        text = f"a run: 256x256, {entry['seconds']:.1f} s, 0 pixels changed outside the hole"
        yield Finding("ok", text)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def as_text(findings: Sequence[Finding]) -> str:
    """One line a finding, what to do below it."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:8} {finding.text}")
        lines += [f"{'':8} {line}" for line in finding.hint.splitlines()]
    return "\n".join(lines)


def without_names(text: str, home: Path, names: Iterable[str]) -> str:
    """Text that can be shown to anybody.

    Args:
        text: may hold paths and names.
        home: folders at and below it are cut down to ~/.../FILE.
        names: of the user and the machine.
    """
    if len(home.parts) > 1:
        text = re.sub(rf"{re.escape(str(home))}(?:[/\\][^/\\\n:'\"]+)*([/\\])", r"~\1...\1", text)
        text = text.replace(str(home), "~")
    for name in names:
        if name:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text)
    return text


def write_report(findings: Sequence[Finding], path: Path, force: bool = False) -> None:
    """Write the findings for a bug report, without paths of the home folder or names.

    Raises:
        InputError: the file exists already, or cannot be written.
    """
    text = without_names(as_text(findings), Path.home(), (_user(), platform.node()))
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError as error:
        hint = "try: --force, or another --report"
        raise InputError(f"{path} exists already", hint) from error
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}", "try: --report OTHER_FILE") from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""  # an account without a name, as in some containers
