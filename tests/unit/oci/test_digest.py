"""Digests: two registered algorithms, lower-case hex of the right length, nothing that could leave a folder."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.errors import BerthError, DigestInvalid
from berth.oci import digest

HEX = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_the_empty_json_digest_is_that_of_the_specification() -> None:
    assert f"sha256:{HEX}" == digest.EMPTY_JSON
    assert digest.of_bytes(b"{}") == digest.EMPTY_JSON


def test_coreutils_agrees(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"berth" * 1000)
    for algorithm in digest.ALGORITHMS:
        line = subprocess.run([f"{algorithm}sum", file], capture_output=True, text=True, check=True).stdout
        assert digest.of_bytes(file.read_bytes(), algorithm) == f"{algorithm}:{line.split()[0].lstrip(chr(92))}"


def test_both_algorithms_parse_into_their_parts() -> None:
    assert digest.parse(f"sha256:{HEX}") == digest.Digest("sha256", HEX)
    long = hashlib.sha512(b"").hexdigest()
    assert str(digest.parse(f"sha512:{long}")) == f"sha512:{long}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        HEX,
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha512:{HEX}",
        "sha256:baddigeststring",
        f"md5:{'0' * 32}",
        f"blake3:{HEX}",
        "sha256:../../etc/passwd",
        f"../sha256:{HEX}",
        f"sha256:{'٣' * 64}",
        f"sha256:sha256:{HEX}",
    ],
)
def test_a_malformed_digest_is_refused(text: str) -> None:
    assert not digest.is_digest(text)
    with pytest.raises(DigestInvalid):
        digest.parse(text)


def test_an_unknown_algorithm_gives_no_hasher() -> None:
    with pytest.raises(DigestInvalid):
        digest.new_hasher("md5")


@given(st.text(max_size=90))
def test_parse_and_is_digest_agree_and_raise_only_our_errors(text: str) -> None:
    try:
        assert str(digest.parse(text)) == text
        accepted = True
    except BerthError:
        accepted = False
    assert digest.is_digest(text) == accepted
