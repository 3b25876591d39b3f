"""What every scanner of the index keeps, whatever it is given: adapters/scanners/contract.py."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from berth.adapters.scanners import VULNERABILITY_SCANNERS, WEIGHT_SCANNERS
from berth.adapters.scanners.contract import SEVERITIES, Scanner, ScanResult, Subject, Summary
from berth.errors import BlobUnknown
from tests.support.advisories import AdvisoryRegistry
from tests.unit.scanners.made import DEBIAN, OCI, Depot, dist_info, dpkg, sha256

MAKERS: dict[str, tuple[str, Callable[[Any, Path, str], Scanner]]] = {
    "trivy": ("vulnerabilities", lambda cls, cache, repository: cls(None, cache, repository, None, None, 60)),
    "weights": ("weights", lambda cls, cache, repository: cls(60)),
}
INDEX = {**VULNERABILITY_SCANNERS, **WEIGHT_SCANNERS}


def test_every_scanner_of_the_index_is_in_this_suite() -> None:
    assert set(MAKERS) == set(INDEX)


@pytest.fixture(params=sorted(INDEX))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kind(name: str) -> str:
    return MAKERS[name][0]


@pytest.fixture
def scanner(name: str, tmp_path: Path, advisory_registry: AdvisoryRegistry) -> Scanner:
    module, _, attribute = INDEX[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    return MAKERS[name][1](found, tmp_path / "cache", advisory_registry.reference)


def ordinary(depot: Depot) -> Subject:
    return depot.image({**DEBIAN, **dpkg(zlib1g="1:9"), **dist_info("requests", "2.33.0")})


def check(result: ScanResult, kind: str) -> None:
    """Holds of every result."""
    assert result.kind == kind
    assert result.status in ("ok", "inconclusive", "failed")
    assert result.tool
    assert isinstance(json.loads(result.report), dict)
    assert result.report_media_type.startswith("application/vnd.berth.report.")
    assert timedelta(0) <= result.finished_at - result.started_at
    assert result.started_at.tzinfo is not None
    summary = json.loads(json.dumps(result.summary.to_json()))
    assert set(summary) == {"severities", "malicious", "suspicious", "problems", "top"}
    assert tuple(summary["severities"]) == SEVERITIES
    assert Summary.from_json(summary).to_json() == summary
    if result.status != "ok":
        assert result.summary.problems, "a scan that did not succeed says why"
    json.dumps(dict(result.database))


async def test_an_ordinary_image_is_ok(scanner: Scanner, kind: str, tmp_path: Path) -> None:
    result = await scanner.scan(ordinary(Depot(tmp_path / "depot")))

    check(result, kind)
    assert (result.status, result.summary.malicious) == ("ok", ())


async def test_version_says_what_a_scan_says(scanner: Scanner, tmp_path: Path) -> None:
    answer = await scanner.version()
    result = await scanner.scan(ordinary(Depot(tmp_path / "depot")))

    assert (answer["tool"], answer["version"]) == (result.tool, result.tool_version)
    assert dict(result.database) == answer["database"]


MANIFESTS = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"config": 1, "layers": 2}',
    b'{"config": {"digest": "x"}, "layers": [1]}',
    b'{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"../../etc/passwd"},"layers":[]}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", MANIFESTS, ids=range(len(MANIFESTS)))
async def test_no_manifest_makes_it_raise_or_say_ok(scanner: Scanner, kind: str, tmp_path: Path, body: bytes) -> None:
    def path_of(digest: str) -> Path:
        raise BlobUnknown(f"no {digest}")

    result = await scanner.scan(Subject(sha256(body), body, OCI, path_of))

    check(result, kind)
    assert result.status != "ok"


async def test_a_config_that_is_no_json_is_never_ok(scanner: Scanner, kind: str, tmp_path: Path) -> None:
    depot = Depot(tmp_path / "depot")
    subject = ordinary(depot)
    config = json.loads(subject.manifest)["config"]
    depot.path_of(config["digest"]).write_bytes(b"not json")

    result = await scanner.scan(subject)

    check(result, kind)
    assert result.status != "ok"


async def test_two_scans_of_the_same_content_find_the_same(scanner: Scanner, tmp_path: Path) -> None:
    subject = ordinary(Depot(tmp_path / "depot"))
    first, second = await scanner.scan(subject), await scanner.scan(subject)

    assert first.summary == second.summary
