"""quality.json as Markdown, put between the markers of quality.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quality_parts.claims import AUTO_BEATS, JUDGED, Claim, claims_of, summary
from quality_parts.judge import RELATIVE, SCORES

#: how numbers of a score are written, and the head of its column
COLUMNS = {
    "frechet": ("{:.1f}", "Frechet"),
    "perceptual": ("{:.3f}", "perceptual"),
    "pids": ("{:.1f}", "P-IDS, held out, %"),
    "seam": ("{:.3f}", "seam"),
    "psnr": ("{:.2f}", "PSNR, dB"),
    "ssim": ("{:.3f}", "SSIM"),
}
#: shares that are shown in %
IN_PERCENT = ("pids",)
Data = Mapping[str, Any]


def insert(text: str, name: str, body: str) -> str:
    """Put `body` between the markers of `name`.

    Raises:
        ValueError: no such markers.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no {begin} ... {end} to write between")
    return f"{before}{begin}\n{body.strip()}\n{end}{after}"


def empty_page(*names: str) -> str:
    """Markers and nothing between them."""
    return "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in names)


def rounded(value: Any) -> Any:
    """Without digits that mean nothing."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def about_line(about: Data) -> str:
    return "; ".join(f"{key} {value}" for key, value in about.items()) + "."


# --- scores ---------------------------------------------------------------------------------------


def rows_section(part: Data) -> str:
    """A table for each kind of hole: every guide alone, and as d2s leaves it."""
    blocks = [about_line(part["about"])]
    for holes in dict.fromkeys(row["holes"] for row in part["rows"]):
        rows = [row for row in part["rows"] if row["holes"] == holes]
        blocks.append(f"### Holes: {holes}")
        first = rows[0]
        blocks.append(f"{first['crops']} crops, mean hole share {first['share']:.3f}.")
        lines = [[_title(row), *_cells(row)] for row in rows]
        blocks.append(table(["result", *(head for _, head in COLUMNS.values())], lines))
    return "\n\n".join(blocks)


def _title(row: Data) -> str:
    return f"{row['guide']}, refined" if "change" in row else f"**{row['guide']}** alone"


def _cells(row: Data) -> list[str]:
    return [_cell(row, name) for name in SCORES]


def _cell(row: Data, name: str) -> str:
    """Value, and where there is something to compare with, the change; else the interval."""
    style, _ = COLUMNS[name]
    scale = 100 if name in IN_PERCENT else 1
    value, half = (scale * number for number in row["scores"][name])
    if "change" not in row:
        return f"{style.format(value)} ± {style.format(half)}"
    away, doubt = row["change"][name]
    better = (away > 0) == SCORES[name] and abs(away) > doubt
    text = f"{style.format(value)} ({_change(name, away, doubt)})"
    return f"**{text}**" if better else text


def _change(name: str, away: float, half: float) -> str:
    if name in RELATIVE:
        return f"{away:+.1f} ± {half:.1f} %"
    style, scale = COLUMNS[name][0], 100 if name in IN_PERCENT else 1
    return f"{style.replace(':', ':+').format(scale * away)} ± {style.format(scale * half)}"


# --- targets --------------------------------------------------------------------------------------


def targets_section(part: Data) -> str:
    """Every target with its verdict in every row."""
    claims = claims_of(part["rows"])
    refined = [claim for claim in claims if claim.what == "refined"]
    blocks = [
        f"1. Refining improves every guide in every row: {summary(refined)}.",
        _claim_table(refined, "guide"),
    ]
    for number, (other, wanted) in enumerate(AUTO_BEATS.items(), 2):
        beaten = [claim for claim in claims if claim.what == "auto" and claim.row == other]
        if not beaten:
            continue
        goals = " and ".join(f"{percent:.0f} % in {name}" for name, percent in wanted.items())
        blocks.append(
            f"{number}. The default chain (`--guide auto`) lies below {other} alone by {goals}"
            f" or more: {summary(beaten)}."
        )
        blocks.append(_claim_table(beaten, "against"))
    return "\n\n".join(blocks)


def _claim_table(claims: Sequence[Claim], head: str) -> str:
    found = {(claim.row, claim.holes, claim.score): claim for claim in claims}
    lines = [
        [row, holes, *(_judgement(found[row, holes, name]) for name in JUDGED)]
        for row, holes in dict.fromkeys((claim.row, claim.holes) for claim in claims)
    ]
    return table([head, "holes", *JUDGED], lines)


def _judgement(claim: Claim) -> str:
    return f"{claim.change:+.1f} ± {claim.half:.1f} %: {claim.verdict}"


# --- ablations ------------------------------------------------------------------------------------


def ablations_section(part: Data) -> str:
    """A table for each question; changes are against the group's first row."""
    blocks = [about_line(part["about"])]
    for group in part["groups"]:
        blocks.append(f"### {group['title']}")
        lines = [[row["label"], *_cells(row)] for row in group["rows"]]
        blocks.append(table(["setting", *(head for _, head in COLUMNS.values())], lines))
    return "\n\n".join(blocks)
