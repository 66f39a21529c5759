"""Fetch a published file: resumed where it stopped, checked, and never half there. No torch.

A download lies in the store's folder of unfinished ones, beside a note of what it is a part of,
until its size and hash are right. The network is nobody's friend: it drops, stalls, sends another
file or a web page, and says lengths that are not true.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from d2s_cli.errors import WeightsError
from d2s_cli.weights.manifest import PublishedFile, manifest
from d2s_cli.weights.store import CHUNK, import_line, partial_folder

if TYPE_CHECKING:
    import requests

MAX_REDIRECTS = 10
#: bytes of a file whose size nobody states
MAX_SIZE = 8 * 10**9
#: seconds before the second try; doubled each time, up to the largest
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
#: statuses that another try may cure
PASSING = frozenset([408, 425, 429, 500, 502, 503, 504])
#: bytes that are read from the network at once; fewer than these are lost when it breaks
PIECE = 16_384
#: left free on the disk
SPARE = 50_000_000


@dataclass(frozen=True)
class Settings:
    """How to fetch.

    Attributes:
        mirror: address that is tried before the sources, with the file's name behind it.
        timeout: seconds without a byte before a try is given up.
        retries: further tries for each source.
        offline: use no network; only file:// addresses are tried.
    """

    mirror: str = ""
    timeout: float = 30.0
    retries: int = 5
    offline: bool = False


@dataclass(frozen=True)
class Fetched:
    """A whole file; `published` says whether its hash is known from elsewhere and right."""

    path: Path
    source: str
    sha256: str
    published: bool


@dataclass(frozen=True)
class Progress:
    """How far a download is; `total` is None where the server does not say."""

    name: str
    done: int
    total: int | None


Report = Callable[[Progress], None]


class _PassingError(Exception):
    """This try failed; another may not."""


class _HopelessError(Exception):
    """This source will not give the file."""


def fetch(entry: str, file: PublishedFile, settings: Settings, report: Report) -> Fetched:
    """Fetch a file from the first source that gives it.

    Args:
        entry: its entry's name, for the folder of unfinished downloads.
        report: is told how far it is.

    Raises:
        WeightsError: no source gave the right file; says what each one did.
    """
    folder = partial_folder() / entry
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / Path(file.sources[0] if file.sources else file.name).name
    failures = []
    for url in addresses(file, settings):
        try:
            _fetch_from(url, partial, file, settings, report)
            sha256 = _checked(partial, file, url)
        except _HopelessError as failure:
            failures.append(f"{url}: {failure}")
            continue
        return Fetched(partial, url, sha256, bool(file.sha256))
    if not failures:
        why = "no network may be used" if settings.offline else "it has no direct address"
        raise WeightsError(f"cannot fetch {file.name}: {why}", _by_hand(entry, file, settings))
    raise WeightsError(
        f"could not fetch {file.name}", "\n".join([*failures, _by_hand(entry, file, settings)])
    )


def addresses(file: PublishedFile, settings: Settings) -> list[str]:
    """Where to look for a file, in order."""
    urls = list(file.sources)
    if settings.mirror:
        name = Path(urlsplit(file.sources[0]).path).name if file.sources else file.name
        urls.insert(0, settings.mirror.rstrip("/") + "/" + quote(name))
    if settings.offline:
        urls = [url for url in urls if urlsplit(url).scheme == "file"]
    return urls


def discard(path: Path) -> None:
    """Remove a download, whole or not, and its note."""
    path.unlink(missing_ok=True)
    _note_of(path).unlink(missing_ok=True)


def _by_hand(entry: str, file: PublishedFile, settings: Settings) -> str:
    lines = []
    if settings.offline:
        lines.append("try: without --offline, or --mirror file:///FOLDER")
    if file.by_hand:
        lines.append(f"by hand: {file.by_hand}")
    together = manifest()[entry].files if entry in manifest() else (file,)
    lines.append(f"if you have it: {import_line(entry, [f.name for f in together])}")
    return "\n".join(lines)


def _fetch_from(
    url: str, partial: Path, file: PublishedFile, settings: Settings, report: Report
) -> None:
    """Try one source until the file is whole, or there is no hope of it."""
    wait = FIRST_WAIT
    for tries_left in range(settings.retries, -1, -1):
        try:
            if urlsplit(url).scheme == "file":
                _copy(url, partial, file, report)
            else:
                _try(url, partial, file, settings, report)
            return
        except _PassingError as failure:
            if not tries_left:
                raise _HopelessError(f"{failure} (tried {settings.retries + 1} times)") from failure
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def _copy(url: str, partial: Path, file: PublishedFile, report: Report) -> None:
    from urllib.request import url2pathname

    source = Path(url2pathname(urlsplit(url).path))
    if not source.is_file():
        raise _HopelessError("no such file")
    discard(partial)
    with source.open("rb") as opened:
        chunks = iter(lambda: opened.read(CHUNK), b"")
        _write(chunks, partial, 0, source.stat().st_size, file, report)


def _try(url: str, partial: Path, file: PublishedFile, settings: Settings, report: Report) -> None:
    import requests

    # http.client's and urllib3's errors reach us as one of these while the body is read
    broken = (requests.RequestException, OSError)
    start, validator = _resumable(url, partial)
    headers = {"Accept-Encoding": "identity", "User-Agent": "d2s"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        with requests.Session() as session:
            answer = _open(session, url, headers, settings.timeout)
            if answer.status_code == 416 and _content_range(answer) == (None, start):
                return  # all of it was there already
            start, total = _judge(answer, start, partial)
            note = _note(url, answer)
            _write(_network_chunks(answer, broken), partial, start, total, file, report, note)
    except broken as error:
        raise _PassingError(_reason(error)) from error


def _network_chunks(answer: requests.Response, broken: Any) -> Iterator[bytes]:
    """The body as it comes; apart from the disk's errors, which another try does not cure."""
    chunks = answer.iter_content(PIECE)
    while True:
        try:
            chunk = next(chunks, b"")
        except broken as error:
            raise _PassingError(_reason(error)) from error
        if not chunk:
            return
        yield chunk


def _open(
    session: requests.Session, url: str, headers: dict[str, str], timeout: float
) -> requests.Response:
    """The answer, redirects followed: not from https to http, and never to anything else."""
    for _ in range(MAX_REDIRECTS):
        answer = session.get(
            url, headers=headers, timeout=timeout, stream=True, allow_redirects=False
        )
        if not answer.is_redirect:
            return answer
        answer.close()
        target = urljoin(url, answer.headers["location"])
        schemes = urlsplit(url).scheme, urlsplit(target).scheme
        if schemes not in (("https", "https"), ("http", "http"), ("http", "https")):
            raise _HopelessError(
                f"it redirects from {schemes[0]} to {schemes[1]}, which is not safe"
            )
        url = target
    raise _HopelessError(f"it redirects more than {MAX_REDIRECTS} times")


def _judge(answer: requests.Response, start: int, partial: Path) -> tuple[int, int | None]:
    """Where the body begins in the file, and how long the whole file is said to be."""
    status, length = answer.status_code, _number(answer.headers.get("content-length"))
    if status == 416:
        discard(partial)
        raise _PassingError("the server has another file than the one begun")
    if status in PASSING:
        raise _PassingError(f"the server answered {status} {answer.reason}")
    if status not in (200, 206):
        raise _HopelessError(f"the server answered {status} {answer.reason}")
    if "text/html" in answer.headers.get("content-type", ""):
        raise _HopelessError("the server sent a web page instead of a file")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise _HopelessError("the server sent the file packed, which was not asked for")
    if status == 200:
        return 0, length
    first, total = _content_range(answer)
    if first != start:
        discard(partial)
        raise _PassingError("the server sent another part than was asked for")
    return start, total if total is not None else (start + length if length is not None else None)


def _write(
    chunks: Iterator[bytes],
    partial: Path,
    start: int,
    total: int | None,
    file: PublishedFile,
    report: Report,
    note: str = "",
) -> None:
    """Put the chunks behind the first `start` bytes, and see that no more or less came."""
    expected = None if file.member else file.size
    if total is not None and expected is not None and total != expected:
        raise _HopelessError(f"it has a file of {total} bytes; the right one has {expected}")
    limit = next(size for size in (expected, total, MAX_SIZE) if size is not None)
    if limit > MAX_SIZE:
        raise _HopelessError(f"it has a file of {limit} bytes, which no weights have")
    known = expected or total
    if known and shutil.disk_usage(partial.parent).free < known - start + SPARE:
        raise WeightsError(
            f"{partial.parent} has no room for {file.name} ({known / 1e6:.0f} MB)",
            "make room, or name another folder with D2S_WEIGHTS_DIR",
        )
    done = start
    try:
        # not through a link that somebody put there
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as target:
            _lock(target, file.name)
            target.truncate(start)
            _note_of(partial).write_text(note, encoding="utf-8")
            target.seek(start)
            for chunk in chunks:
                done += len(chunk)
                if done > limit:
                    break
                target.write(chunk)
                report(Progress(file.name, done, known))
            target.flush()
            os.fsync(target.fileno())
    except OSError as error:
        raise WeightsError(
            f"cannot write {partial}: {error.strerror}",
            "make room or look at the folder's rights; the same command goes on where it stopped",
        ) from error
    if done > limit:
        discard(partial)
        raise _PassingError(f"more came than the {limit} bytes that the file has")
    if known is not None and done < known:
        raise _PassingError(f"it ended after {done} of {known} bytes")


def _lock(target: IO[bytes], name: str) -> None:
    """Keep a second d2s from writing to the same file, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WeightsError(f"another d2s is fetching {name}", "wait until it is done") from error


def _checked(partial: Path, file: PublishedFile, url: str) -> str:
    """The hash of a whole download; a wrong one is not kept."""
    sha256 = hashlib.sha256()
    with partial.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            sha256.update(chunk)
    found = sha256.hexdigest()
    known = file.sha256 or file.sha256_starts
    if not found.startswith(known):
        discard(partial)
        raise _HopelessError(f"it sent another file: SHA-256 {found}, the right one has {known}")
    _note_of(partial).unlink(missing_ok=True)
    return found


# A note says what an unfinished download is a part of, so that parts of two files never meet.


def _note_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _note(url: str, answer: requests.Response) -> str:
    """What is needed to go on later; nothing where the server does not name the file's version."""
    etag = answer.headers.get("etag", "")
    validator = etag if etag and not etag.startswith("W/") else answer.headers.get("last-modified")
    return json.dumps({"url": url, "validator": validator}) if validator else ""


def _resumable(url: str, partial: Path) -> tuple[int, str]:
    """How many bytes are there of the file at `url`, and what names its version; else 0."""
    try:
        note = json.loads(_note_of(partial).read_text(encoding="utf-8"))
        if note["url"] == url and partial.is_file() and not partial.is_symlink():
            return partial.stat().st_size, str(note["validator"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # no note that makes sense: begin anew
    return 0, ""


def _content_range(answer: requests.Response) -> tuple[int | None, int | None]:
    """First byte and whole length, of "bytes FIRST-LAST/LENGTH"; None for what is not said."""
    text = answer.headers.get("content-range", "")
    span, _, total = text.removeprefix("bytes ").partition("/")
    return _number(span.partition("-")[0]), _number(total)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 19 else None


def _reason(error: BaseException) -> str:
    """What went wrong, without the libraries' wrapping."""
    name = type(error).__name__
    if "timed out" in str(error):
        name = "ReadTimeout"
    words = {
        "ReadTimeout": "the server went silent",
        "ConnectTimeout": "the server does not answer",
        "ChunkedEncodingError": "the connection broke",
        "SSLError": "no safe connection",
        "ProxyError": "the proxy refuses",
        "ConnectionError": "no connection",
        "InvalidURL": "no such address",
    }
    return words.get(name, f"{name}: {str(error).partition(chr(10))[0][:200]}")
