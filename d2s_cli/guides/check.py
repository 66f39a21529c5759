"""Does a guide keep its contract, and what does it cost: what `d2s guides test` runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from d2s_cli.errors import D2SError, UsageError, WeightsError
from d2s_cli.guides.contract import Guide

#: height and width of the pictures: usual, odd, tiny, narrow
SIZES = ((64, 64), (97, 61), (7, 5), (2, 3), (33, 150))
#: of the picture whose time is taken
TIMED = 256
#: results that should be alike may differ by one level of 255, in [-1, 1]
ONE_LEVEL = 2 / 255 + 1e-6
#: a fill of a smooth picture that is off by more on average, in [-1, 1], is no fill of it
IMPLAUSIBLE = 0.5


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        level: "ok", "warning" or "failed".
        name: what was looked at.
        detail: what was found.
    """

    level: str
    name: str
    detail: str


@dataclass(frozen=True)
class Cost:
    """Seconds for a picture of TIMED x TIMED.

    Attributes:
        first: the first call, with what is set up then.
        later: the next.
    """

    first: float
    later: float


def passed(checks: list[Check]) -> bool:
    return all(check.level != "failed" for check in checks)


def check_guide(guide: Guide) -> Iterator[Check]:
    """Look at everything that the contract promises; slow guides take a dozen calls.

    Args:
        guide: loaded.
    """
    for name, look in _LOOKS.items():
        try:
            level, detail = look(guide)
        except D2SError as error:
            yield Check("failed", name, error.message)
        except Exception as error:  # a check reports what a guide raises, whatever it is
            reason = str(error).strip().partition("\n")[0]
            yield Check("failed", name, f"{type(error).__name__}: {reason}")
        else:
            yield Check(level, name, detail)


def measure(guide: Guide) -> Cost:
    """Time of two calls.

    Raises:
        D2SError: what the guide raises.
    """
    image, hole = scene(TIMED, TIMED)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        guide(image, hole)
        seconds.append(time.perf_counter() - began)
    return Cost(*seconds)


def scene(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth picture, 1 x 3 x H x W in [-1, 1], and a hole in its middle, 1 x 1 x H x W."""
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None].expand(height, width)
    turns = torch.tensor([1.0, 1.5, 0.5])[:, None, None] + seed / 4
    image = 0.3 + 0.4 * torch.sin(turns * (2 * y + x) + seed)
    hole = torch.zeros(1, 1, height, width)
    top, left = height // 3, width // 3
    hole[..., top : max(2 * height // 3, top + 1), left : max(2 * width // 3, left + 1)] = 1
    return image[None], hole


def _sizes(guide: Guide) -> tuple[str, str]:
    for height, width in SIZES:
        image, hole = scene(height, width)
        given = image.clone(), hole.clone()
        try:
            out = guide(image, hole)
        except D2SError as error:
            raise WeightsError(f"{width}x{height}: {error.message}") from error
        problem = _wrong(out, image, hole)
        if not (torch.equal(image, given[0]) and torch.equal(hole, given[1])):
            problem = "what it was given has changed"
        if problem:
            return "failed", f"{width}x{height}: {problem}"
    return "ok", ", ".join(f"{w}x{h}" for h, w in SIZES) + ": known pixels bit for bit, no NaN"


def _wrong(out: Tensor, image: Tensor, hole: Tensor) -> str:
    """What is wrong with a result; empty if nothing is."""
    if out.shape != image.shape:
        return f"gave {list(out.shape)} for {list(image.shape)}"
    if not bool(torch.isfinite(out).all()):
        return "gave NaN or infinity"
    if bool((out.abs() > 1).any()):
        return "gave numbers outside [-1, 1]"
    changed = ((out != image) & (hole < 0.5)).any(1).sum()
    return f"changed {int(changed)} known pixels" if changed else ""


def _empty(guide: Guide) -> tuple[str, str]:
    image, hole = scene(64, 64)
    same = torch.equal(guide(image, torch.zeros_like(hole)), image)
    return ("ok", "nothing changes") if same else ("failed", "the picture changes")


def _full(guide: Guide) -> tuple[str, str]:
    image, hole = scene(64, 64)
    everything = torch.ones_like(hole)
    try:
        out = guide(image, everything)
    except UsageError as error:
        return "ok", f"refused: {error.message}"
    problem = _wrong(out, image, everything)
    return ("failed", problem) if problem else ("ok", "is filled")


def _hidden(guide: Guide) -> tuple[str, str]:
    image, hole = scene(64, 64)
    first = guide(image, hole)
    other = guide(torch.where(hole > 0, -image, image), hole)
    return _alike(first, other, "what is under the hole does not matter", "reads under the hole")


def _same_seed(guide: Guide) -> tuple[str, str]:
    image, hole = scene(64, 64)
    first = guide(image, hole, seed=1)
    level, detail = _alike(first, guide(image, hole, seed=1), "the same result", "two results")
    if level == "ok":
        follows = not torch.equal(first, guide(image, hole, seed=2))
        detail += "; another seed gives another" if follows else "; the seed does not matter"
    return level, detail


def _batch(guide: Guide) -> tuple[str, str]:
    pairs = [scene(64, 64, seed) for seed in range(2)]
    image, hole = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    hole[1] = hole[1].roll(9, -1)
    # in runs, pictures that go together have seeds of their own
    seeds = [1, 2] if guide.batches else [1, 1]
    together = guide(image, hole, seed=seeds if guide.batches else 1)
    alone = [guide(image[i : i + 1], hole[i : i + 1], seed=seeds[i]) for i in range(2)]
    return _alike(together, torch.cat(alone), "as alone", "other results than alone")


def _plausible(guide: Guide) -> tuple[str, str]:
    image, hole = scene(64, 64)
    off = float((guide(image, hole) - image).abs().sum() / hole.sum() / 3)
    levels = f"off by {off * 127.5:.1f} of 255 levels in a smooth picture"
    if off <= IMPLAUSIBLE:
        return "ok", levels
    return "warning", f"{levels}; are the ranges and the mask's sides right?"


def _alike(a: Tensor, b: Tensor, same: str, different: str) -> tuple[str, str]:
    """Equal up to rounding, or by how much they are not."""
    if torch.equal(a, b):
        return "ok", same
    most = float((a - b).abs().max())
    levels = f"up to {most * 127.5:.2g} of 255 levels"
    return (
        ("ok", f"{same}, {levels}") if most <= ONE_LEVEL else ("failed", f"{different}, {levels}")
    )


_LOOKS: dict[str, Callable[[Guide], tuple[str, str]]] = {
    "sizes": _sizes,
    "empty hole": _empty,
    "full hole": _full,
    "hidden pixels": _hidden,
    "same seed": _same_seed,
    "batch": _batch,
    "plausible": _plausible,
}
