"""Are the model's weights there? Mounted, bundled, or fetched now; else say exactly what is missing (design §6).

`/opt/xumi/weights.json`, written by the build, lists every file: checkpoint, mount, path, digest, size.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

from xumi.problems import StartFailed
from xumi.settings import Settings

EXIT_MISSING = 3
_BUFFER = 1024 * 1024
_TRIES = 4


class WeightFile:
    """One file the model needs."""

    def __init__(self, entry: Dict[str, Any], root: Path) -> None:
        self.checkpoint: str = entry["checkpoint"]
        self.path: str = entry["path"]
        self.digest: str = entry["digest"]
        self.size: int = entry["size"]
        parts = PurePosixPath(self.path).parts
        if not parts or PurePosixPath(self.path).is_absolute() or ".." in parts:
            raise StartFailed(f"The list of weights holds the path {self.path!r}, which leaves its folder.", 2)
        self.target = root.joinpath(*parts)

    def problem(self, verify: bool) -> Optional[str]:
        """What is wrong with the file on disk, or None."""
        try:
            size = self.target.stat().st_size
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            return f"unreadable ({error.strerror})"
        if size != self.size:
            return f"has {size} bytes, not {self.size}"
        if verify and _digest_of(self.target, self.digest) != self.digest:
            return f"does not have the digest {self.digest}"
        return None


def locate(settings: Settings, manifest: Dict[str, Any]) -> Dict[str, Path]:
    """Folder of each checkpoint by its name."""
    found = {}
    for checkpoint in manifest.get("checkpoints") or ():
        name = checkpoint["name"]
        found[name] = settings.weights_dir / name if settings.weights_dir else Path(checkpoint["mount"])
    return found


def read_list(settings: Settings, folders: Dict[str, Path]) -> List[WeightFile]:
    """The files the build found; empty when the image was built without weights."""
    path = settings.manifest.parent / "weights.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
        return [WeightFile(entry, folders[entry["checkpoint"]]) for entry in entries]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise StartFailed(f"{path} is damaged: {error!r}.", 2) from None


def ensure(settings: Settings, manifest: Dict[str, Any]) -> Dict[str, Path]:
    """Makes sure that all weights are there; returns the folders by checkpoint.

    Raises:
        StartFailed: exit code 3; the message names every missing file.
    """
    folders = locate(settings, manifest)
    files = read_list(settings, folders)
    wrong = [(file, problem) for file in files for problem in [file.problem(settings.weights_verify)] if problem]
    if wrong and settings.weights_url:
        wrong = _fetch_all([file for file, _ in wrong], settings)
    if wrong:
        lines = "\n".join(f"  {file.target}  {problem}  ({file.size} bytes, {file.digest})" for file, problem in wrong)
        places = ", ".join(sorted({str(folders[file.checkpoint]) for file, _ in wrong}))
        raise StartFailed(
            f"Weights are missing:\n{lines}\n"
            f"Mount them at {places}, or set XUMI_WEIGHTS_URL and XUMI_WEIGHTS_TOKEN, "
            "or use an image built with `xumi build --bundle`.",
            EXIT_MISSING,
        )
    return folders


def _fetch_all(files: List[WeightFile], settings: Settings) -> List[Tuple[WeightFile, str]]:
    failed = []
    for file in files:
        started = time.monotonic()
        problem = _fetch(file, settings)
        if problem:
            failed.append((file, problem))
        else:
            seconds = time.monotonic() - started
            print(f"xumi: fetched {file.target} ({file.size} bytes in {seconds:.1f} s)", file=sys.stderr, flush=True)
    return failed


def _fetch(file: WeightFile, settings: Settings) -> Optional[str]:
    """Fetches one file into place, trying again after passing failures; returns what went wrong, or None."""
    url = f"{settings.weights_url}/{file.digest}"
    problem: Optional[str] = None
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(0.25 * 2**attempt)
        try:
            # What arrives whole but wrong is wrong the next time, too.
            return _download(url, file, settings.weights_token)
        except urllib.error.HTTPError as error:
            problem = f"not fetched: the server answered {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                return problem
        except OSError as error:
            if isinstance(error, PermissionError):
                return f"not fetched: {error.filename or file.target.parent} cannot be written"
            problem = f"not fetched: {getattr(error, 'reason', None) or error.strerror or error}"
        except http.client.HTTPException as error:
            problem = f"not fetched: {error!r}"
    return problem


def _download(url: str, file: WeightFile, token: str) -> Optional[str]:
    if urlsplit(url).scheme not in ("http", "https"):
        return "not fetched: XUMI_WEIGHTS_URL must start with http:// or https://"
    request = urllib.request.Request(url, headers={"Accept": "application/octet-stream"})  # noqa: S310 - checked above
    if token:
        # Unredirected: a redirect to storage never sees the token.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    file.target.parent.mkdir(parents=True, exist_ok=True)
    algorithm = file.digest.partition(":")[0]
    hasher = hashlib.new(algorithm)
    handle, name = tempfile.mkstemp(prefix=f".{file.target.name}.", suffix=".partial", dir=str(file.target.parent))
    try:
        size = 0
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            while True:
                piece = answer.read(_BUFFER)
                if not piece:
                    break
                size += len(piece)
                if size > file.size:
                    return f"not fetched: the server sent more than {file.size} bytes"
                hasher.update(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        if size != file.size:
            return f"not fetched: the server sent {size} bytes, not {file.size}"
        if f"{algorithm}:{hasher.hexdigest()}" != file.digest:
            return "not fetched: what the server sent does not have the digest"
        os.chmod(name, 0o644)
        os.replace(name, str(file.target))
        return None
    finally:
        if os.path.exists(name):
            os.unlink(name)


def _digest_of(path: Path, like: str) -> str:
    algorithm = like.partition(":")[0]
    hasher = hashlib.new(algorithm)
    with path.open("rb") as stream:
        while True:
            piece = stream.read(_BUFFER)
            if not piece:
                return f"{algorithm}:{hasher.hexdigest()}"
            hasher.update(piece)
