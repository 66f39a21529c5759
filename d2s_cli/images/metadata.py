"""What a picture file holds besides pixels, and how much of it goes into a result."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from fractions import Fraction

from d2s_cli.errors import UsageError
from d2s_cli.images import jpeg_segments as jpeg
from d2s_cli.images import png_chunks as png
from d2s_cli.images import tiff_directory as tiff

POLICIES = ("keep", "private", "drop")
#: without these the pixels would look different
_TO_SHOW = frozenset({tiff.ORIENTATION, tiff.ICC, 301, 318, 319})
#: what `private` keeps besides: how the picture was taken, but not where or by whom
_HARMLESS = frozenset(
    [
        *(tiff.X_RESOLUTION, tiff.Y_RESOLUTION, tiff.RESOLUTION_UNIT, tiff.EXIF),
        *(271, 272, 42034, 42035, 42036),  # make and model of camera and lens
        *(306, 36867, 36868, 37520, 37521, 37522),  # dates
        *(33434, 33437, 34850, 34855, *range(34864, 34870)),  # exposure and sensitivity
        *(36864, 37121, *range(37377, 37387), 40960, 40961, 40962, 40963),  # light, focus, colours
        *(41486, 41487, 41488, 41495, 41728, 41729, *range(41985, 41995), 41996, 42240),
    ]
)
_ALLOWED = {"private": _TO_SHOW | _HARMLESS, "drop": _TO_SHOW}


@dataclass(frozen=True)
class Metadata:
    """All that a file holds besides pixels.

    Attributes:
        exif: EXIF block that can be read, without the header that JPEG puts before it.
        icc: colour profile.
        xmp: XMP packet.
        dpi: pixels per inch, across and down.
        chunks: ancillary chunks of a PNG file.
        segments: metadata segments of a JPEG file.
        page: tags of a TIFF file's first page.
        more_pages: the other pages of a TIFF file, as they are coded.
    """

    exif: bytes = b""
    icc: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    chunks: list[png.Chunk] = field(default_factory=list)
    segments: list[jpeg.Segment] = field(default_factory=list)
    page: tiff.Directory = field(default_factory=tiff.Directory)
    more_pages: list[tiff.Directory] = field(default_factory=list)


def check_policy(policy: str) -> None:
    """UsageError for what --metadata does not know."""
    if policy not in POLICIES:
        raise UsageError(f"unknown --metadata {policy!r}", f"one of: {', '.join(POLICIES)}")


def allowed(metadata: Metadata, policy: str, orientation: int) -> Metadata:
    """What of a file's metadata may go into a result.

    Args:
        metadata: of the source.
        policy: keep, private or drop.
        orientation: the source's; stays under every policy, since the pixels stay as stored.
    """
    if policy == "keep":
        return metadata
    tags = _ALLOWED[policy]
    page = metadata.page.only(lambda tag: tag in tags)
    exif = _filtered_exif(metadata.exif, tags, orientation)
    dpi = metadata.dpi if policy == "private" else None
    chunks = [c for c in metadata.chunks if c.name in png.COLOUR]
    chunks += png.build(exif, b"", b"", dpi)
    return replace(
        metadata,
        exif=exif,
        xmp=b"",
        dpi=dpi,
        chunks=chunks,
        segments=jpeg.build(exif, metadata.icc, b""),
        page=page,
        more_pages=[p.only(lambda t: t in tags or t in tiff.LAYOUT) for p in metadata.more_pages],
    )


def _filtered_exif(exif: bytes, tags: frozenset[int], orientation: int) -> bytes:
    """An EXIF block with these tags and without thumbnail; empty if none are left."""
    main = tiff.read_exif(exif)[0] if exif else tiff.Directory()
    main = main.only(lambda tag: tag in tags)
    if orientation != 1:
        main.entries[tiff.ORIENTATION] = tiff.number_entry(orientation, type=tiff.SHORT)
    return exif_block(main)


def exif_block(main: tiff.Directory) -> bytes:
    """An EXIF block that holds a directory; empty for an empty one."""
    if not (main.entries or main.children):
        return b""
    file = io.BytesIO()
    tiff.write_directories([replace(main, blocks={})], "<", file)
    return file.getvalue()


def exif_of_page(page: tiff.Directory) -> bytes:
    """The EXIF block that says what a TIFF page's tags say."""
    elsewhere = {tiff.ICC, tiff.XMP}
    return exif_block(page.metadata().only(lambda tag: tag not in elsewhere))


def page_from(metadata: Metadata, orientation: int) -> tiff.Directory:
    """TIFF tags for metadata that came from another format."""
    page = tiff.Directory()
    if metadata.exif:
        page = tiff.read_exif(metadata.exif)[0].metadata()
    if orientation != 1:
        page.entries[tiff.ORIENTATION] = tiff.number_entry(orientation, type=tiff.SHORT)
    for tag, block in ((tiff.ICC, metadata.icc), (tiff.XMP, metadata.xmp)):
        if block:
            page.entries[tag] = tiff.Entry(tiff.UNDEFINED, len(block), block)
    if metadata.dpi:
        for tag, dpi in zip((tiff.X_RESOLUTION, tiff.Y_RESOLUTION), metadata.dpi, strict=True):
            exact = Fraction(dpi).limit_denominator(10000)
            pair = tiff.number_entry(exact.numerator, exact.denominator)
            page.entries[tag] = tiff.Entry(tiff.RATIONAL, 1, pair.data)
        page.entries[tiff.RESOLUTION_UNIT] = tiff.number_entry(2, type=tiff.SHORT)
    return page


def left_behind(metadata: Metadata, source: str, target: str) -> list[str]:
    """What cannot go from a file of one format into one of another."""
    if source == target:
        return []
    notes = []
    if any(png.text_keyword(c) not in ("", "XML:com.adobe.xmp") for c in metadata.chunks):
        notes.append(f"PNG text is not kept in {target}")
    if any(c.name in png.COLOUR - {b"iCCP", b"sRGB"} for c in metadata.chunks):
        notes.append(f"PNG's colour chunks besides the profile are not kept in {target}")
    if any(s.marker in (jpeg.COM, 0xED) for s in metadata.segments):
        notes.append(f"JPEG comments and IPTC blocks are not kept in {target}")
    return notes


def has_thumbnail(metadata: Metadata) -> bool:
    """True if the EXIF block holds a small picture of its own."""
    return bool(metadata.exif) and tiff.read_exif(metadata.exif)[1]
