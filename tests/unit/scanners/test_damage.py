"""The weight scanner knows the files of the real libraries, and neither damage nor traps hurt it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.adapters.scanners.weights import PickleWeightScanner
from tests.support.weight_files import TRAP, WEIGHTS, damaged, went_off
from tests.unit.scanners.made import SYSTEM_4, Depot, tar
from tests.unit.scanners.test_walk import judged

KINDS = {"m.safetensors": "safetensors", "m.gguf": "gguf", "m.onnx": "onnx", "m.npz": "zip", "m.keras": "zip"}
TRAPPED = [name for name in WEIGHTS if name.endswith((".pt", ".npz", ".bin", ".pkl", ".joblib", ".pickle"))]


@pytest.fixture(autouse=True)
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRAP, str(tmp_path / "went-off"))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_file_of_the_real_library_is_known_by_its_content(name: str, streamed: bool) -> None:
    found = judged(WEIGHTS[name], streamed=streamed)
    assert found.files[0]["kind"] == KINDS[name]
    assert (found.status(), list(found.problems)) == ("ok", [])
    assert bool(found.malicious) is (name in TRAPPED)


async def test_every_trap_is_found_in_a_checkpoint_and_none_goes_off(tmp_path: Path) -> None:
    depot, scanner = Depot(tmp_path / "depot"), PickleWeightScanner(60)
    bad = await scanner.scan(depot.checkpoint(*(WEIGHTS[name] for name in TRAPPED)))
    good = await scanner.scan(depot.checkpoint(*(data for name, data in WEIGHTS.items() if name not in TRAPPED)))
    layers = {found.path.partition("!")[0] for found in bad.summary.malicious}
    assert layers == {f"layer {number}" for number in range(1, len(TRAPPED) + 1)}
    assert (good.status, good.summary.malicious) == ("ok", ())
    assert not went_off()


def test_text_that_is_no_utf_8_ends_a_pickle_as_it_ends_an_unpickler() -> None:
    bad = b"\x8c\x02\xff\xfe0"  # SHORT_BINUNICODE of two bytes, POP
    with pytest.raises(UnicodeDecodeError):
        pickle.loads(b"\x80\x04" + bad + b"N.")
    assert not judged(b"\x80\x04" + bad + b"N.").malicious
    # What was called before it has run by then.
    assert judged(SYSTEM_4[:-1] + bad + b".").malicious


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(WEIGHTS)), streamed=st.booleans(), packed=st.booleans())
def test_damage_never_crashes_the_scanner(data: st.DataObject, name: str, streamed: bool, packed: bool) -> None:
    body = data.draw(damaged(tar({name: WEIGHTS[name]}) if packed else WEIGHTS[name]))
    assert judged(body, name, streamed=streamed).status() in ("ok", "inconclusive")
    assert not went_off()
