"""Who looks for known vulnerabilities and malicious weights? Index: kind → dotted name, loaded by `wiring` alone."""

from __future__ import annotations

VULNERABILITY_SCANNERS: dict[str, str] = {
    "trivy": "berth.adapters.scanners.trivy:TrivyScanner",
}

WEIGHT_SCANNERS: dict[str, str] = {
    "weights": "berth.adapters.scanners.weights:PickleWeightScanner",
}
