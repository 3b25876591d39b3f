"""`xumi diff`: what changed, by manifest field, layer, code file and weight file, and what a push would send again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.authoring.build import build
from berth.authoring.compare import compare_folder, compare_versions
from berth.authoring.repository import LocalRepository
from berth.cli.main import run
from berth.cli.xumi import COMMANDS
from berth.errors import ManifestUnknown
from berth.oci import manifest as manifests

Make = Callable[..., Path]
ONE, TWO = "acme/echo:1.2.3", "acme/echo:1.3.0"


def edit(root: Path, *pairs: tuple[str, str]) -> None:
    text = (root / "xumi.yaml").read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (root / "xumi.yaml").write_text(text)


def blobs(repository: LocalRepository, reference: str) -> dict[str, int]:
    """Every blob and manifest of a version, counted here by hand."""
    top = repository.resolve(reference)
    found = {top.digest: top.size}
    for child in manifests.parse(repository.manifest(top.digest)).manifests:
        found[child.digest] = child.size
        parsed = manifests.parse(repository.manifest(child.digest))
        assert parsed.config is not None
        found |= {d.digest: d.size for d in (parsed.config, *parsed.layers)}
    return found


def test_two_versions(make_project: Make, repository: LocalRepository) -> None:
    root = make_project()
    build(root, repository)
    edit(root, ("version: 1.2.3", "version: 1.3.0"), ("max_length: 20", "max_length: 30"))
    edit(root, ("license: Apache-2.0\n", ""), ("organization: Acme", "organization: Acme\ntags: [new]"))
    (root / "serve.py").write_text((root / "serve.py").read_text() + "\n# edited\n")
    (root / "helpers" / "__init__.py").unlink()
    (root / "more.py").write_text("x = 1\n")
    (root / "weights" / "a.bin").write_bytes(b"B" * 700)
    build(root, repository)

    found = compare_versions(repository, ONE, TWO)
    changes = {c.what: (c.old, c.new) for c in found.manifest}
    assert changes["version"] == ("1.2.3", "1.3.0")
    assert changes["interface.inputs[text].max_length"] == (20, 30)
    assert changes["license"] == ("Apache-2.0", None)
    assert changes["tags"] == ([], ["new"])
    assert len(changes) == 4
    assert [(c.what, c.old is None, c.new is None) for c in found.code] == [
        ("helpers/__init__.py", False, True),
        ("more.py", True, False),
        ("serve.py", False, False),
    ]
    (weights,) = found.checkpoints
    assert (weights.what, weights.old["size"], weights.new["size"]) == ("main/a.bin", 1000, 700)
    assert {c.what for c in found.layers} == {"linux/amd64 manifest", "linux/amd64 code"}
    before, after = blobs(repository, ONE), blobs(repository, TWO)
    assert found.resend == sum(size for digest, size in after.items() if digest not in before)
    assert found.resend_is_exact


def test_a_version_is_no_different_from_itself(make_project: Make, repository: LocalRepository) -> None:
    root = make_project()
    build(root, repository)
    assert compare_versions(repository, ONE, ONE).same
    assert compare_versions(repository, ONE, ONE).resend == 0
    found = compare_folder(repository, ONE, root)
    assert (found.same, found.resend, found.notes) == (True, 0, ())


def test_the_working_folder(make_project: Make, repository: LocalRepository) -> None:
    root = make_project()
    build(root, repository)
    edit(root, ("base: oci-layout:../base", "base: oci-layout:../base\n  requirements: [numpy]"))
    (root / "run.sh").chmod(0o644)
    (root / "weights" / "deep" / "er" / "b.dat").write_bytes(bytes(256 * 5000))
    (root / "weights" / "c.bin").write_bytes(b"C" * 50)
    found = compare_folder(repository, ONE, root)
    assert [(c.what, c.old, c.new) for c in found.manifest] == [("runtime.requirements", [], ["numpy"])]
    assert [c.what for c in found.code] == ["run.sh"]
    assert [c.what for c in found.checkpoints] == ["main/c.bin", "main/deep/er/b.dat"]
    sizes = {p: (root / p).stat().st_size for p in ("serve.py", "run.sh", "helpers/__init__.py", "helpers/grüße.txt")}
    assert found.resend == 50 + 256 * 5000 + sum(sizes.values())
    assert not found.resend_is_exact
    assert "requirements" in found.notes[0]


def test_a_secret_that_is_left_out_of_a_build_does_not_stop_a_diff(
    make_project: Make, repository: LocalRepository
) -> None:
    root = make_project()
    build(root, repository)
    (root / ".env").write_text("TOKEN=x")
    assert [c.what for c in compare_folder(repository, ONE, root).code] == [".env"]


def test_an_unknown_version_is_refused(make_project: Make, repository: LocalRepository) -> None:
    with pytest.raises(ManifestUnknown):
        compare_folder(repository, "acme/none:1.0.0", make_project())


def test_the_command(
    make_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XUMI_HOME", str(tmp_path / "home"))

    def xumi(*arguments: str) -> tuple[int, str]:
        return run("xumi", COMMANDS, list(arguments)), capsys.readouterr().out

    root = make_project()
    assert xumi("build", str(root))[0] == 0
    edit(root, ("title: Echo", "title: Echo again"))
    (root / "weights" / "a.bin").write_bytes(b"B" * 1000)
    monkeypatch.chdir(root)
    code, out = xumi("diff", ONE)
    assert code == 0
    assert '~ title  "Echo" → "Echo again"' in out
    assert "~ main/a.bin  1000 B → 1000 B" in out
    assert out.splitlines()[-1] == "to send again: about 1000 B"
    assert xumi("diff", ONE, ".", "--exit-code")[0] == 1
    assert xumi("diff", ONE, ONE, "--exit-code")[0] == 0
    told = json.loads(xumi("diff", ONE, str(root), "-o", "json")[1])
    assert (told["same"], told["resend_bytes"], told["resend_is_exact"]) == (False, 1000, False)
    assert xumi("diff", ONE, "acme/none:1.0.0")[0] == 1
