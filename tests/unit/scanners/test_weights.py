"""The weight scanner end to end: layers of images and checkpoints through the real child process (design §6)."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import sysconfig
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest

from berth.adapters.scanners.contract import ScanResult, Subject
from berth.adapters.scanners.weights import PickleWeightScanner
from tests.unit.scanners.made import HARMLESS_4, ORDERED, SYSTEM, SYSTEM_4, Depot, sha256, tar, zipped


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "depot")


@pytest.fixture
def weights() -> PickleWeightScanner:
    return PickleWeightScanner(60)


def codes(result: ScanResult) -> list[str]:
    return [problem.code for problem in result.summary.problems]


@pytest.mark.parametrize("compression", ["plain", "gzip", "zstd"])
async def test_a_pickle_in_a_torch_zip_in_a_layer_is_found(
    depot: Depot, weights: PickleWeightScanner, compression: str
) -> None:
    bad = zipped({"m/data.pkl": SYSTEM_4, "m/data/0": bytes(100)})
    good = zipped({"m/data.pkl": ORDERED, "m/data/0": bytes(100)})

    found = await weights.scan(depot.image({"a": b"x"}, {"opt/model/w.safetensors": bad}, compression=compression))
    clean = await weights.scan(depot.image({"a": b"x"}, {"opt/model/w.safetensors": good}, compression=compression))

    assert [(f.path, f.what) for f in found.summary.malicious] == [
        (
            "layer 2: opt/model/w.safetensors!m/data.pkl",
            "loading this pickle imports and can run posix.system",
        )
    ]
    assert (clean.status, clean.summary.malicious, clean.summary.problems) == ("ok", (), ())


async def test_a_raw_checkpoint_is_found(depot: Depot, weights: PickleWeightScanner) -> None:
    found = await weights.scan(depot.checkpoint(HARMLESS_4, SYSTEM))
    clean = await weights.scan(depot.checkpoint(HARMLESS_4, HARMLESS_4 + b"\n"))

    assert [f.path for f in found.summary.malicious] == ["layer 2"]
    assert (clean.status, clean.summary.malicious) == ("ok", ())


async def test_documents_beside_weights_are_read_like_weights(depot: Depot, weights: PickleWeightScanner) -> None:
    """A README is no obstacle, and its media type no hiding place."""
    raw, document = "application/vnd.cncf.model.weight.v1.raw", "application/vnd.cncf.model.doc.v1.tar"

    def checkpoint(content: bytes) -> Subject:
        config = {"mediaType": "application/vnd.cncf.model.config.v1+json", **depot.put(b"{}")}
        layers = [{"mediaType": raw, **depot.put(HARMLESS_4)}]
        return depot.manifest(config, [*layers, {"mediaType": document, **depot.put(tar({"README.md": content}))}])

    clean = await weights.scan(checkpoint(b"# A model\n\nIt says so.\n"))
    hidden = await weights.scan(checkpoint(SYSTEM))
    assert (clean.status, clean.summary.malicious, clean.summary.problems) == ("ok", (), ())
    assert [f.path for f in hidden.summary.malicious] == ["layer 2!README.md"]


async def test_docker_schema_2_is_walked_like_oci(depot: Depot, weights: PickleWeightScanner) -> None:
    assert (await weights.scan(depot.image({"w": SYSTEM}, docker=True))).summary.malicious


async def test_a_layer_that_does_not_match_its_diff_id_fails(depot: Depot, weights: PickleWeightScanner) -> None:
    files = {"a": b"x"}
    truth = sha256(tar(files))
    for compression in ("plain", "gzip", "zstd"):
        lying = await weights.scan(depot.image(files, compression=compression, diff_ids=["sha256:" + "0" * 64]))
        honest = await weights.scan(depot.image(files, compression=compression, diff_ids=[truth]))
        assert (lying.status, codes(lying)) == ("failed", ["layer.diff_id_mismatch"])
        assert honest.status == "ok"


async def test_a_config_with_another_number_of_layers_fails(depot: Depot, weights: PickleWeightScanner) -> None:
    result = await weights.scan(depot.image({"a": b"x"}, diff_ids=[]))

    assert (result.status, codes(result)) == ("failed", ["layer.diff_id_mismatch"])


async def test_what_cannot_be_decoded_is_inconclusive(depot: Depot, weights: PickleWeightScanner) -> None:
    lz4 = b"\x04\x22\x4d\x18" + bytes(1000)
    hidden = tar({"a": b"x"}) + tar({"w": SYSTEM})
    torn = tar({"a": bytes(5000)})[:2000]
    for layer in (lz4, b"no tar at all" * 100, hidden, torn):
        result = await weights.scan(depot.image(layer))
        assert result.status == "inconclusive"
        assert "layer.unreadable" in codes(result)


async def test_a_damaged_compressed_layer_is_inconclusive(depot: Depot, weights: PickleWeightScanner) -> None:
    subject = depot.image({"a": os.urandom(5000)})
    path = depot.path_of(json.loads(subject.manifest)["layers"][0]["digest"])
    path.write_bytes(path.read_bytes()[:-900])

    assert (await weights.scan(subject)).status == "inconclusive"


async def test_a_layer_elsewhere_or_missing_is_inconclusive(depot: Depot, weights: PickleWeightScanner) -> None:
    foreign = await weights.scan(depot.image({"a": b"x"}, layer={"urls": ["https://elsewhere.test/"]}))
    subject = depot.image({"a": b"y"})
    depot.path_of(json.loads(subject.manifest)["layers"][0]["digest"]).unlink()
    missing = await weights.scan(subject)

    assert (foreign.status, codes(foreign)) == ("inconclusive", ["layer.foreign"])
    assert (missing.status, codes(missing)) == ("inconclusive", ["layer.missing"])


async def test_tar_features_are_understood(depot: Depot, weights: PickleWeightScanner) -> None:
    name = "d/" * 60 + "long-name-" * 10
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        at = "short" if form == tarfile.USTAR_FORMAT else name + "é"
        result = await weights.scan(depot.image(tar({"first": b"1", at: SYSTEM}, format=form)))
        assert [f.path for f in result.summary.malicious] == [f"layer 1: {at}"]
        assert result.status == "ok"


async def test_a_sparse_file_is_inconclusive(depot: Depot, weights: PickleWeightScanner) -> None:
    body = bytearray(tar({"w": SYSTEM}, format=tarfile.GNU_FORMAT))
    body[156] = ord("S")
    checksum = sum(body[:148]) + 8 * 32 + sum(body[156:512])
    body[148:156] = b"%06o\0 " % checksum

    assert codes(await weights.scan(depot.image(bytes(body)))) == ["file.unsupported"]


async def test_buildkit_attestations_are_documents_not_layers(depot: Depot, weights: PickleWeightScanner) -> None:
    statement = b'{"_type":"https://in-toto.io/Statement/v0.1"}'
    layer = {"mediaType": "application/vnd.in-toto+json", **depot.put(statement)}
    config = {"architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": [sha256(statement)]}}
    described = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        **depot.put(json.dumps(config).encode()),
    }

    assert (await weights.scan(depot.manifest(described, [layer]))).status == "ok"


async def test_the_python_packages_of_an_ordinary_image_are_not_malicious(
    depot: Depot, weights: PickleWeightScanner
) -> None:
    """numpy (with pickles of Python 2 among its tests), onnxruntime and the standard library's pickle modules."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        for package in ("numpy", "onnxruntime"):
            archive.add(Path(sysconfig.get_path("purelib")) / package, f"site-packages/{package}")
        for module in ("pickle", "pickletools", "json", "encodings", "email", "importlib"):
            found = Path(sysconfig.get_path("stdlib")) / module
            found = found if found.exists() else found.with_suffix(".py")
            archive.add(found, f"lib/{found.name}")

    result = await weights.scan(depot.image(body.getvalue(), compression="plain"))

    assert (result.status, result.summary.malicious) == ("ok", ())
    assert json.loads(result.report)["files_total"] > 1000


async def test_a_huge_sparse_weights_file_is_recognised_from_its_header(
    depot: Depot, weights: PickleWeightScanner
) -> None:
    header = b'{"w":{"dtype":"U8","shape":[2147483648],"data_offsets":[0,2147483648]}}'
    subject = depot.checkpoint(len(header).to_bytes(8, "little") + header)
    path = depot.path_of(json.loads(subject.manifest)["layers"][0]["digest"])
    with path.open("r+b") as file:
        file.truncate(8 + len(header) + (2 << 30))

    result = await weights.scan(subject)

    assert (result.status, result.summary.problems) == ("ok", ())
    assert result.finished_at - result.started_at < timedelta(seconds=10)


async def test_the_child_has_no_network_and_cannot_write(
    depot: Depot, tmp_path: Path, weights: PickleWeightScanner
) -> None:
    result = await weights.scan(depot.checkpoint(HARMLESS_4))

    sandbox = json.loads(result.report)["sandbox"]
    assert sandbox["file_size"] == "0"
    if os.geteuid() == 0:
        assert sandbox["network"] == "none"
    assert "network" in result.log


async def test_the_sandbox_really_cuts_off_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = tmp_path / "python"
        program.write_text(
            f"#!{sys.executable}\nimport sys, json, socket\nsys.path.append(sys.argv.pop())\n"
            "from berth.adapters.scanners.weights_child import sandbox\n"
            "state = sandbox.enter(memory_bytes=1 << 32, cpu_seconds=10)\n"
            f"try:\n    socket.create_connection(('127.0.0.1', {port}), 2)\n    said = 'connected'\n"
            "except OSError as error:\n    said = 'refused'\n"
            "if state['network'] != 'none':\n    said = 'refused'\n"
            "json.dump({'status': 'ok', 'malicious': [], 'suspicious': [], 'problems': [], 'said': said}, sys.stdout)\n"
        )
        program.chmod(0o755)
        result = await PickleWeightScanner(20, python=str(program)).scan(Depot(tmp_path / "d").checkpoint(b"x"))

    assert json.loads(result.report)["said"] == "refused"


BROKEN = {
    "crashing": ("exit 7", "scanner.crashed"),
    "killed": ("kill -9 $$", "scanner.crashed"),
    "hanging": ("sleep 600", "scanner.timeout"),
    "silent": ("cat > /dev/null", "scanner.answer_invalid"),
    "garbage": ("cat > /dev/null; echo hello", "scanner.answer_invalid"),
    "another shape": ('cat > /dev/null; echo \'{"status": "fine"}\'', "scanner.answer_invalid"),
    "a finding that is no object": (
        'cat > /dev/null; echo \'{"status":"ok","malicious":[1],"suspicious":[],"problems":[]}\'',
        "scanner.answer_invalid",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_child_is_a_failed_scan(depot: Depot, tmp_path: Path, case: str) -> None:
    body, code = BROKEN[case]
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    weights = PickleWeightScanner(1 if case == "hanging" else 20, python=str(program))

    result = await weights.scan(depot.checkpoint(HARMLESS_4))

    assert (result.status, codes(result)) == ("failed", [code])


async def test_a_missing_python_is_a_failed_scan(depot: Depot, tmp_path: Path) -> None:
    result = await PickleWeightScanner(20, python=str(tmp_path / "none")).scan(depot.checkpoint(HARMLESS_4))

    assert (result.status, codes(result)) == ("failed", ["scanner.unusable"])


async def test_running_out_of_memory_is_never_ok(depot: Depot) -> None:
    many = b"\x80\x04" + b"]\x94" * 500_000 + b"."
    result = await PickleWeightScanner(60, 40 << 20).scan(depot.checkpoint(many))

    assert result.status in ("inconclusive", "failed")
