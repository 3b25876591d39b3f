"""How do advisories become a Trivy database (schema 2)? JSON in, `trivy.db`, `metadata.json` and `db.tar.gz` out.

Buckets as aquasecurity/trivy-db writes them: 'vulnerability' id → JSON; 'data-source' bucket name → JSON;
'<ecosystem>::<source>' → package → id → JSON; 'debian 12' → source package → id → JSON.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from demo.advisories import bbolt

ADVISORIES = Path(__file__).with_name("advisories.json")

_SOURCES = {
    "pip::": ("ghsa", "GitHub Security Advisory pip", "https://github.com/advisories?query=ecosystem%3Apip"),
    "npm::": ("ghsa", "GitHub Security Advisory npm", "https://github.com/advisories?query=ecosystem%3Anpm"),
    "debian ": ("debian", "Debian Security Tracker", "https://salsa.debian.org/security-tracker-team/security-tracker"),
}
_SEVERITIES = ("UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL")


def load(path: Path = ADVISORIES) -> list[dict[str, Any]]:
    """Read advisories from JSON."""
    advisories: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return advisories


def build(
    out: Path,
    advisories: Sequence[Mapping[str, Any]] | None = None,
    *,
    updated_at: datetime | None = None,
    valid_for: timedelta = timedelta(days=1),
) -> Path:
    """Write the database into the folder `out`; returns that folder.

    Args:
        advisories: as in `advisories.json`; None = those.
        updated_at: the date the database bears; None = now.
        valid_for: after this time Trivy asks for a newer one.
    """
    out.mkdir(parents=True, exist_ok=True)
    moment = (updated_at or datetime.now(UTC)).astimezone(UTC)
    bbolt.write(out / "trivy.db", _tree(load() if advisories is None else advisories))
    metadata = {
        "Version": 2,
        "NextUpdate": _text(moment + valid_for),
        "UpdatedAt": _text(moment),
        "DownloadedAt": "0001-01-01T00:00:00Z",
    }
    (out / "metadata.json").write_text(json.dumps(metadata))
    (out / "db.tar.gz").write_bytes(_packed(out, ("trivy.db", "metadata.json")))
    return out


def _tree(advisories: Sequence[Mapping[str, Any]]) -> bbolt.Tree:
    sources: dict[str, Any] = {}
    details: dict[str, Any] = {}
    tree: dict[str, Any] = {"data-source": sources, "vulnerability": details}
    for advisory in advisories:
        bucket = advisory["source"]
        source_id, name, url = next(facts for prefix, facts in _SOURCES.items() if bucket.startswith(prefix))
        sources[bucket] = _json({"ID": source_id, "Name": name, "URL": url})
        packages = tree.setdefault(bucket, {})
        packages.setdefault(advisory["package"], {})[advisory["id"]] = _json(advisory["advisory"])
        severity = _SEVERITIES.index(advisory["severity"])
        details[advisory["id"]] = _json(
            {
                "Title": advisory["title"],
                "Description": advisory["description"],
                "Severity": advisory["severity"],
                "CweIDs": advisory.get("cwe", []),
                "VendorSeverity": {source_id: severity, "nvd": severity},
                "CVSS": {},
                "References": advisory.get("references", []),
            }
        )
    return tree


def _packed(folder: Path, names: Sequence[str]) -> bytes:
    # Same input, same bytes: no time stamps, no owner.
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            data = (folder / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(body.getvalue(), mtime=0)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
