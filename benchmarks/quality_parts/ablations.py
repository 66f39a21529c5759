"""What each choice of the refiner does: one thing changed at a time."""

from __future__ import annotations

from typing import Any

from quality_parts.chains import ALONE, Chain

#: smooth fills are what the refiner has most to do on; uncorrected, so that it alone is measured
GUIDE = "telea"
HOLES = "15-30 %"
#: a fixed start near the middle of those that the texture asks for, where solvers are compared
FIXED = 50
#: a table that ends at about the strongest noise that the bundled weights know
SHORT = 150

Group = tuple[str, list[Chain]]


def _chain(label: str, **settings: Any) -> Chain:
    return Chain(GUIDE, {"correct": False} | settings, label)


def _solver(name: str, steps: int, **settings: Any) -> Chain:
    label = f"{name}, {steps} steps" + "".join(f", {value}" for value in settings.values())
    return _chain(label, tk=FIXED, sampler=name, steps=steps, **settings)


def groups() -> list[Group]:
    """Title and chains; the first of each is what the others are compared with."""
    default = _chain("default: T_k by texture, up to 200")
    fixed = _chain(f"T_k {FIXED}, T 1000", tk=FIXED)
    return [
        ("The start, T_k", [default, *(_chain(f"T_k {tk}", tk=tk) for tk in _starts())]),
        ("Refined at all", [Chain(GUIDE, ALONE, f"{GUIDE} alone"), default]),
        (
            f"The table, T, at T_k {FIXED}",
            [fixed, *(_chain(f"T {t}", tk=FIXED, table_steps=t) for t in (250, 500, 2000))],
        ),
        (
            "The table, T, with T_k by texture",
            [default, _chain("T 250", table_steps=250)],
        ),
        (
            f"Solver and steps, at T_k {FIXED}",
            [
                _chain("dpmpp-sde, 5 steps (default)", tk=FIXED),
                *(_solver("dpmpp-sde", steps) for steps in (2, 3, 10)),
                _solver("dpmpp-sde", 5, spacing="logsnr"),
                *(_solver(name, 5) for name in ("dpmpp", "ddim", "ddpm")),
            ],
        ),
        (
            f"Variance of ancestral steps: the posterior's (ddpm) or beta, at T_k {FIXED}",
            [_solver(name, 5) for name in ("ddpm", "ddpm-beta")],
        ),
        ("Injection, with T_k by texture", [default, _chain("injection", inject=True)]),
        (
            "From the middle or the start",
            [
                default,
                _chain(f"T {SHORT}, from its start", table_steps=SHORT, start="start"),
            ],
        ),
    ]


def _starts() -> tuple[int, ...]:
    return (25, 50, 100, 200, 399)
