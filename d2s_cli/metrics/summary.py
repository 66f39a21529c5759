"""From features and per-picture values to scores, intervals, bins and warnings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s_cli.errors import UsageError
from d2s_cli.metrics.distances import (
    Features,
    frechet_of_features,
    inception_score,
    kernel_distance,
    weighted_kernel_distances,
)
from d2s_cli.metrics.features import Extractor
from d2s_cli.metrics.ids import Discrimination, discriminate
from d2s_cli.metrics.intervals import draws, mean_interval, resampled_scores, spread_interval
from d2s_cli.metrics.pictures import LOSSY, SEAM_FLOOR, Item, Judged
from d2s_cli.metrics.presets import Preset
from d2s_cli.metrics.scores import HOLE_SUFFIX, Bin, Score, Scores
from d2s_cli.metrics.statistics import Statistics, frechet

#: resamples of means over pictures, unless said otherwise
RESAMPLES = 1000
#: below these, FID is strongly biased upwards, and IDS compares with no published value
FID_PICTURES, IDS_PICTURES = 2048, 3000
BINS = 10
#: values beside a score, which are shown in its detail
_SEAM_PARTS = ("seam step", "seam texture", SEAM_FLOOR)


@dataclass(frozen=True)
class Gathered:
    """What one pass over all pictures gave.

    Attributes:
        items: in order.
        judged: one for each.
        result, truth: features of both sides, None where none were wanted.
    """

    items: list[Item]
    judged: list[Judged]
    result: Statistics | None
    truth: Statistics | None


def set_scores(
    names: Sequence[str],
    results: Statistics,
    truth: Statistics | None,
    extractor: Extractor,
    preset: Preset,
    resamples: int,
    seed: int,
    paired: bool,
) -> dict[str, Score]:
    """Scores of whole sets.

    Args:
        names: of metrics, others than those of sets are passed over.
        results, truth: features.
        extractor: for the classes of the Inception Score.
        preset: recipe.
        resamples: for the intervals of fid, kid and is; 0 for none.
        seed: of the resamples.
        paired: row i of both sides is one picture.

    Raises:
        UsageError: a metric needs the features of pictures, and there are statistics alone.
        InputError: features that do not fit, or are no numbers.
    """
    count = results.count or 0
    found: dict[str, Score] = {}
    if "is" in names:
        logits = extractor.logits(rows_of(results, "is"))
        score = inception_score(logits, preset.splits, preset.shuffle)
        resampled = resampled_scores(
            lambda rows: inception_score(logits[rows], preset.splits).mean, count, resamples, seed
        )
        detail = {"std": score.std, "splits": score.splits}
        found["is"] = _with_spread(score.mean, count, resampled, detail)
    if truth is None:
        return found
    for name in ("fid", "frechet"):
        if name in names:
            found[name] = _frechet_score(results, truth, preset.ddof, resamples, seed)
    if "kid" in names:
        found["kid"] = _kernel_score(
            rows_of(results, "kid"), rows_of(truth, "kid"), preset, resamples, seed
        )
    if {"pids", "uids"} & set(names):
        wanted = [name for name in ("pids", "uids") if name in names]
        real, fake = rows_of(truth, wanted[0]), rows_of(results, wanted[0])
        if "pids" in wanted and not paired:
            raise UsageError(
                "pids compares each result with its own truth, and these are not matched",
                "give two folders of one naming, or try: --metric uids",
            )
        outcome = discriminate(real, fake, "pids" in wanted)
        found |= _ids_scores(wanted, outcome, count, resamples or RESAMPLES, seed)
    return {name: found[name] for name in names if name in found}


#: scores that mean and covariance do not suffice for
NEED_ROWS = ("kid", "is", "pids", "uids")


def rows_of(statistics: Statistics, metric: str) -> Features:
    """The features of every picture; UsageError if there are mean and covariance alone."""
    if statistics.features is None:
        raise UsageError(
            f"{metric} needs the features of every picture, and {statistics.source} has mean and"
            " covariance alone",
            "give the folder, or statistics that --save-stats wrote together with --metric kid",
        )
    return statistics.features


def _with_spread(
    value: float, count: int, resampled: NDArray[np.float64], detail: dict[str, Any]
) -> Score:
    if len(resampled) < 2:
        return Score(value, count, detail=detail)
    low, high = spread_interval(value, resampled)
    return Score(value, count, low, high, detail)


def _frechet_score(
    results: Statistics, truth: Statistics, ddof: int, resamples: int, seed: int
) -> Score:
    value = frechet(results, truth, ddof)
    detail = {"covariance": "N" if ddof == 0 else "N - 1", "reference": truth.count}
    if -1e-6 < value < 0:
        value = 0.0  # rounding of equal sets
    resampled = np.empty(0)
    if resamples:
        fake, real = rows_of(results, "the interval of fid"), rows_of(truth, "the interval of fid")
        others = draws(len(real), resamples, seed + 1)
        together = len(real) == len(fake) and results.names == truth.names
        pairs = draws(len(fake), resamples, seed)
        # matched pictures are drawn together, or the spread would be that of unmatched sets
        chosen = zip(pairs, pairs if together else others, strict=True)
        resampled = np.array([frechet_of_features(fake[i], real[j], ddof) for i, j in chosen])
    score = _with_spread(value, results.count or 0, resampled, detail)
    return score if score.low is None else replace(score, low=max(score.low, 0.0))


def _kernel_score(
    fake: Features, real: Features, preset: Preset, resamples: int, seed: int
) -> Score:
    kernel = kernel_distance(fake, real, preset.kid_subsets, preset.kid_size, preset.kid_seed)
    detail = {"std": kernel.std, "subsets": kernel.subsets, "size": kernel.size}
    resampled = np.empty(0)
    if resamples:
        weights = [
            np.stack([np.bincount(rows, minlength=len(x)) for rows in draws(len(x), resamples, s)])
            for x, s in ((fake, seed), (real, seed + 1))
        ]
        fake_weights, real_weights = (w.T.astype(np.float64) for w in weights)
        resampled = weighted_kernel_distances(fake, real, fake_weights, real_weights)
    return _with_spread(kernel.mean, len(fake), resampled, detail)


def _ids_scores(
    names: Sequence[str], outcome: Discrimination, count: int, resamples: int, seed: int
) -> dict[str, Score]:
    """With intervals for the plane as it was fitted: pictures are drawn again, the plane is not."""
    found: dict[str, Score] = {}
    for name in names:
        if name == "pids":
            assert outcome.preferred is not None
            wrong = outcome.preferred.astype(np.float64)
        else:
            sides = [outcome.taken_for_real, outcome.taken_for_fake]
            wrong = np.concatenate(sides).astype(np.float64)
        interval = mean_interval(wrong, resamples, seed)
        low, high = interval or (None, None)
        found[name] = Score(float(wrong.mean()), count, low, high)
    return found


def summarise(
    names: Sequence[str],
    gathered: Gathered,
    details: dict[str, Score],
    resamples: int | None,
    seed: int,
) -> Scores:
    """All scores in the order in which they were asked for, without preset and recipe.

    Args:
        names: of the metrics.
        gathered: per-picture values.
        details: scores of sets.
        resamples: for intervals of means; None takes RESAMPLES.
        seed: of the resamples.
    """
    columns = _columns(gathered.judged)
    count = RESAMPLES if resamples is None else resamples
    scores: dict[str, Score] = {}
    for name in names:
        if name in details:
            scores[name] = details[name]
        for key in (name, name + HOLE_SUFFIX):
            if key in columns:
                scores[key] = _mean_score(key, columns, count, seed)
    items, judged = gathered.items, gathered.judged
    warnings = _warnings(names, scores, items, judged)
    bins = _bins(columns, [one.hole_share for one in judged])
    rows = {key: values.tolist() for key, values in columns.items()}
    return Scores(scores, rows, [item.name for item in items], bins, "", {}, warnings)


def _columns(judged: Sequence[Judged]) -> dict[str, NDArray[np.float64]]:
    keys = dict.fromkeys(key for one in judged for key in one.values)
    return {key: np.array([one.values.get(key, math.nan) for one in judged]) for key in keys}


def _mean_score(
    name: str, columns: dict[str, NDArray[np.float64]], resamples: int, seed: int
) -> Score:
    values = columns[name]
    finite = values[np.isfinite(values)]
    detail: dict[str, Any] = {}
    if equal := int(np.isposinf(values).sum()):
        detail["equal_pictures"] = equal
    if name == "seam":
        for part in _SEAM_PARTS:
            if part in columns and not np.isnan(columns[part]).all():
                detail[part.removeprefix("seam ")] = float(np.nanmean(columns[part]))
    if len(finite) == 0:
        return Score(math.inf if detail.get("equal_pictures") else math.nan, 0, detail=detail)
    interval = mean_interval(finite, resamples, seed)
    low, high = interval or (None, None)
    return Score(float(finite.mean()), len(finite), low, high, detail)


def _bins(columns: dict[str, NDArray[np.float64]], shares: Sequence[float | None]) -> list[Bin]:
    """Tenths of the picture that is hole, those with pictures."""
    known = np.array([math.nan if share is None else share for share in shares])
    bins = []
    for i in range(BINS):
        low, high = i / BINS, (i + 1) / BINS
        inside = (known >= low) & ((known < high) | (i == BINS - 1))
        if not inside.any():
            continue
        means = {}
        for name, values in columns.items():
            if name in _SEAM_PARTS:
                continue
            finite = values[inside & np.isfinite(values)]
            means[name] = float(finite.mean()) if len(finite) else math.nan
        if means:
            bins.append(Bin(low, high, int(inside.sum()), means))
    return bins


def _warnings(
    names: Sequence[str],
    scores: dict[str, Score],
    items: Sequence[Item],
    judged: Sequence[Judged],
) -> list[str]:
    found = []
    smallest = min(
        [s.detail.get("reference") or s.count for s in scores.values()]
        + [s.count for s in scores.values()],
        default=0,
    )
    if {"fid", "frechet"} & set(names) and smallest < FID_PICTURES:
        found.append(
            f"FID of {smallest} pictures is biased upwards, strongly below {FID_PICTURES}: compare"
            " it only with values of the same pictures, or use kid"
        )
    if {"pids", "uids"} & set(names) and smallest < IDS_PICTURES:
        found.append(
            f"P-IDS and U-IDS fall with the number of pictures: those of {smallest} compare with no"
            f" published value (about {IDS_PICTURES} and more)"
        )
    if {"psnr", "psnr" + HOLE_SUFFIX} & set(scores):
        equal = max(s.detail.get("equal_pictures", 0) for n, s in scores.items() if "psnr" in n)
        if equal:
            found.append(
                f"{equal} results equal their truth: their PSNR is infinite, and left out of the"
                " mean"
            )
    found += _file_warnings([one.facts for one in judged if one.facts])
    found += _agreement_warnings(items, judged)
    return found


def _file_warnings(facts: Sequence[dict[str, Any]]) -> list[str]:
    found = []
    formats = Counter(fact["format"] for fact in facts if "format" in fact)
    lossy = sum(formats[name] for name in LOSSY)
    if lossy:
        found.append(
            f"{lossy} of {len(facts)} results are JPEG: its loss changes every score; write PNG"
        )
    truths = Counter(fact["truth_format"] for fact in facts if "truth_format" in fact)
    if truths and formats and set(truths) != set(formats):
        sides = [" and ".join(sorted(names)) for names in (formats, truths)]
        found.append(f"results are {sides[0]}, the reference is {sides[1]}: compare like with like")
    if len(formats) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in sorted(formats.items()))
        found.append(f"results are of mixed formats: {listed}")
    sizes = Counter(fact["size"] for fact in facts if "size" in fact)
    if len(sizes) > 1:
        found.append(f"results are of {len(sizes)} different sizes; each is judged at its own")
    if alpha := sum(bool(fact.get("alpha")) for fact in facts):
        found.append(f"{alpha} results have an alpha channel, which is left out")
    return found


def _agreement_warnings(items: Sequence[Item], judged: Sequence[Judged]) -> list[str]:
    known = [
        (item, one.facts["known_changed"])
        for item, one in zip(items, judged, strict=True)
        if one.facts.get("known_changed") is not None
    ]
    changed = [(item, share) for item, share in known if share > 0]
    if changed:
        worst, share = max(changed, key=lambda pair: pair[1])
        return [
            f"known pixels differ from the reference in {len(changed)} of {len(known)} pictures"
            f" (most in {worst.name}: {share:.1%}): wrong reference, another resize, lossy files,"
            " or masks of the other polarity"
        ]
    shares = [one.facts["same"] for one in judged if "same" in one.facts]
    if not known and shares and float(np.median(shares)) < 0.01:
        return [
            "results and reference share hardly any pixel: is this the very reference that was"
            " restored, at its own size and without loss? --masks checks the known pixels"
        ]
    return []
