"""System packages: resolved by apt from a signed archive made here, unpacked without running anything."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berth.authoring import deb, debian, lockfile
from berth.authoring.base_files import Files
from berth.authoring.build import build
from berth.authoring.options import Options
from berth.authoring.packing import open_layer
from berth.authoring.pinning import Upgrade, lock
from berth.authoring.repository import LocalRepository
from berth.errors import InvalidInput
from tests.unit.authoring.conftest import MANIFEST, make_base

Make = Callable[..., Path]
TOOLS = ("apt-get", "dpkg-deb", "gpg", "gpgv")
missing = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed here: {', '.join(missing)}")

STATUS = """\
Package: base-files
Status: install ok installed
Maintainer: Nobody <nobody@example.org>
Architecture: amd64
Version: 12
Description: base

Package: libold
Status: install ok installed
Maintainer: Nobody <nobody@example.org>
Architecture: amd64
Version: 1.0
Description: old
"""


def make_deb(
    folder: Path,
    name: str,
    files: dict[str, bytes],
    *,
    depends: str = "",
    version: str = "1.0-1",
    compression: str = "xz",
    **control: str,
) -> Path:
    """A package by the real dpkg-deb; `control` are more control files (postinst=…)."""
    tree = folder / "tree" / name
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    fields = [f"Package: {name}", f"Version: {version}", "Architecture: amd64", "Maintainer: N <n@example.org>"]
    fields += [f"Depends: {depends}"] if depends else []
    (tree / "DEBIAN" / "control").write_text("\n".join([*fields, f"Description: {name} made for a test", ""]))
    for file, text in control.items():
        (tree / "DEBIAN" / file).write_text(text)
        (tree / "DEBIAN" / file).chmod(0o644 if file == "triggers" else 0o755)
    for file, data in files.items():
        path = tree / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in tree.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    out = folder / f"{name}_{version}_amd64.deb"
    command = ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", str(tree), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


class Archive:
    """A Debian archive in a folder, signed with a key made for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = folder / "pool"
        self.pool.mkdir(parents=True)
        self.gnupg = (
            Path("/tmp") / f"gpg-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        )  # sockets: short path
        self.gnupg.mkdir(mode=0o700, exist_ok=True)
        self._gpg("--passphrase", "", "--quick-generate-key", "Test <test@example.org>", "rsa2048", "sign", "never")
        self.key = self._gpg("--export")

    def _gpg(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        command = ["gpg", "--homedir", str(self.gnupg), "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, input=stdin, check=True, capture_output=True).stdout

    def publish(self, *, sign: bool = True) -> None:
        stanzas = []
        for path in sorted(self.pool.glob("*.deb")):
            control = subprocess.run(["dpkg-deb", "-f", str(path)], check=True, capture_output=True, text=True).stdout
            data = path.read_bytes()
            stanzas.append(
                f"{control}Filename: pool/{path.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
            )
        index = "\n".join(stanzas).encode()
        target = self.folder / "dists" / "tiny" / "main" / "binary-amd64"
        target.mkdir(parents=True, exist_ok=True)
        (target / "Packages").write_bytes(index)
        (target / "Packages.gz").write_bytes(gzip.compress(index, mtime=0))
        lines = [
            f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/{name}"
            for name, data in (("Packages", index), ("Packages.gz", (target / "Packages.gz").read_bytes()))
        ]
        release = (
            "Origin: Test\nSuite: tiny\nCodename: tiny\nArchitectures: amd64\nComponents: main\n"
            "Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n" + "\n".join(lines) + "\n"
        )
        top = self.folder / "dists" / "tiny"
        (top / "InRelease").unlink(missing_ok=True)
        (top / "Release").write_text(release)
        if sign:
            (top / "InRelease").write_bytes(self._gpg("--clearsign", stdin=release.encode()))

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.gnupg), "--kill", "all"], capture_output=True, check=False)
        shutil.rmtree(self.gnupg, ignore_errors=True)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "archive")
    make_deb(made.pool, "libtiny", {"lib/libtiny.so.1": b"\x7fELF tiny", "usr/share/doc/libtiny/copyright": b"c"})
    triggers = "activate-noawait ldconfig\n"
    make_deb(made.pool, "tinytool", {"usr/bin/tiny": b"#!/bin/sh\n"}, depends="libtiny, libold", triggers=triggers)
    made.publish()
    yield made
    made.close()


def project(make: Make, archive: Archive, names: str, *, source: str | None = None) -> Path:
    root = make(manifest=MANIFEST.replace("runtime:\n", f"runtime:\n  system_packages: {names}\n"))
    shutil.rmtree(root.parent / "base")
    line = source or f"deb [signed-by=/usr/share/keyrings/tiny.gpg] file:{archive.folder} tiny main\n"
    make_base(
        root.parent / "base",
        files={
            "etc/os-release": b"ID=tinylinux\nVERSION_CODENAME=tiny\n",
            "etc/apt/sources.list": line.encode(),
            "usr/share/keyrings/tiny.gpg": archive.key,
            "var/lib/dpkg/status": STATUS.encode(),
        },
    )
    return root


def system_layer(repository: LocalRepository, root: Path, options: Options | None = None) -> dict[str, bytes]:
    built = build(root, repository, options=options)
    layer = next(x for x in built.layers if x.kind == "system")
    with (
        repository.open_blob(layer.descriptor.digest) as blob,
        tarfile.open(fileobj=open_layer(blob), mode="r|") as tar,
    ):
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


def test_packages_are_unpacked_with_what_they_need_and_dpkg_knows_them(
    make_project: Make, repository: LocalRepository, archive: Archive, tmp_path: Path
) -> None:
    files = system_layer(repository, project(make_project, archive, "[tinytool]"))
    assert files["usr/bin/tiny"] == b"#!/bin/sh\n"
    assert files["lib/libtiny.so.1"] == b"\x7fELF tiny"
    assert files["var/lib/dpkg/info/tinytool.list"].decode().splitlines()[-1] == "/usr/bin/tiny"
    # Debian's own dpkg-query is who reads it.
    admin = tmp_path / "admin"
    (admin / "updates").mkdir(parents=True)
    (admin / "status").write_bytes(files["var/lib/dpkg/status"])
    shown = subprocess.run(
        ["dpkg-query", f"--admindir={admin}", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\n"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert shown.splitlines() == [
        "base-files 12 installed",
        "libold 1.0 installed",
        "libtiny 1.0-1 installed",
        "tinytool 1.0-1 installed",
    ]


def test_the_lock_names_each_package_by_hash_and_a_build_takes_exactly_those(
    make_project: Make, repository: LocalRepository, archive: Archive, tmp_path: Path
) -> None:
    root = project(make_project, archive, "[tinytool]")
    lockfile.write(root, lock(root, repository))
    text = (root / "xumi.lock").read_text()
    assert str(archive.folder) not in text
    packages = json.loads(text)["platforms"]["linux/amd64"]["system_packages"]
    assert [(p["name"], p["version"], p["architecture"]) for p in packages] == [
        ("libtiny", "1.0-1", "amd64"),
        ("tinytool", "1.0-1", "amd64"),
    ]
    deb_file = archive.pool / "libtiny_1.0-1_amd64.deb"
    assert packages[0]["sha256"] == hashlib.sha256(deb_file.read_bytes()).hexdigest()
    first = build(root, repository, options=Options(locked=True))
    make_deb(archive.pool, "libtiny", {"lib/libtiny.so.1": b"newer"}, version="1.1-1")
    archive.publish()
    other = LocalRepository(tmp_path / "other")
    assert build(root, other, options=Options(locked=True)).digest == first.digest
    # The same version with another content is not what the lock names.
    make_deb(archive.pool, "libtiny", {"lib/libtiny.so.1": b"changed"})
    archive.publish()
    with pytest.raises(InvalidInput, match=r"libtiny 1\.0-1 \(amd64\) is missing"):
        build(root, LocalRepository(tmp_path / "third"), options=Options(locked=True))


def test_a_new_lock_keeps_the_versions_that_are_still_offered_until_asked(
    make_project: Make, repository: LocalRepository, archive: Archive
) -> None:
    root = project(make_project, archive, "[tinytool]")

    def versions(upgrade: Upgrade | None = None) -> dict[str, str]:
        found = lock(root, repository, upgrade=upgrade)
        lockfile.write(root, found)
        return {p.name: p.version for p in found.platforms["linux/amd64"].system_packages}

    assert versions() == {"libtiny": "1.0-1", "tinytool": "1.0-1"}
    make_deb(archive.pool, "libtiny", {"lib/libtiny.so.1": b"newer"}, version="1.1-1")
    archive.publish()
    assert versions() == {"libtiny": "1.0-1", "tinytool": "1.0-1"}
    assert versions(Upgrade.named(["libtiny"])) == {"libtiny": "1.1-1", "tinytool": "1.0-1"}
    # As a security archive does: the old version goes when the new one comes.
    make_deb(archive.pool, "libtiny", {"lib/libtiny.so.1": b"newest"}, version="1.2-1")
    (archive.pool / "libtiny_1.1-1_amd64.deb").unlink()
    archive.publish()
    assert versions() == {"libtiny": "1.2-1", "tinytool": "1.0-1"}


def test_an_archive_that_is_not_signed_by_the_right_key_is_refused(
    make_project: Make, repository: LocalRepository, archive: Archive
) -> None:
    root = project(make_project, archive, "[tinytool]")
    archive.publish(sign=False)
    with pytest.raises(InvalidInput, match="cannot be resolved"):
        build(root, repository)
    archive.publish()
    signed = archive.folder / "dists" / "tiny" / "InRelease"
    signed.write_bytes(signed.read_bytes().replace(b"Origin: Test", b"Origin: Evil"))
    with pytest.raises(InvalidInput, match="cannot be resolved"):
        build(root, repository)
    archive.publish()
    assert "usr/bin/tiny" in system_layer(repository, root)


def test_what_a_source_says_about_trust_is_not_believed(
    make_project: Make, repository: LocalRepository, archive: Archive
) -> None:
    root = project(make_project, archive, "[tinytool]", source=f"deb [trusted=yes] file:{archive.folder} tiny main\n")
    archive.publish(sign=False)
    with pytest.raises(InvalidInput, match="cannot be resolved"):
        build(root, repository)


def test_a_package_that_was_changed_in_the_archive_is_refused(
    make_project: Make, repository: LocalRepository, archive: Archive
) -> None:
    root = project(make_project, archive, "[libtiny]")
    path = archive.pool / "libtiny_1.0-1_amd64.deb"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InvalidInput, match="cannot be resolved"):
        build(root, repository)


def test_unknown_packages_and_bases_without_dpkg_are_clear_errors(
    make_project: Make, repository: LocalRepository, archive: Archive, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="nosuchthing"):
        build(project(make_project, archive, "[nosuchthing]"), repository)
    root = make_project("other", manifest=MANIFEST.replace("runtime:\n", "runtime:\n  system_packages: [libtiny]\n"))
    with pytest.raises(InvalidInput, match="no dpkg") as caught:
        build(root, repository)
    assert "runtime.build" in str(caught.value)


def test_what_the_base_has_makes_no_layer(make_project: Make, repository: LocalRepository, archive: Archive) -> None:
    built = build(project(make_project, archive, "[libold]"), repository)
    assert "system" not in [layer.kind for layer in built.layers]


@pytest.mark.parametrize(
    "control",
    [
        {"postinst": '#!/bin/sh\nset -e\nif [ "$1" = configure ]; then\n\tldconfig\nfi\nexit 0\n'},
        {"postinst": '#!/bin/sh\nset -e\ncase "$1" in\n  configure)\n    py3compile -p x\n  ;;\nesac\n'},
        {"triggers": "interest-noawait /usr/share/x\nactivate-noawait ldconfig\n"},
        {"prerm": "#!/bin/sh\nrm -rf /x\n"},
    ],
)
def test_scripts_that_change_nothing_are_harmless(tmp_path: Path, control: dict[str, str]) -> None:
    assert deb.read(make_deb(tmp_path, "fine", {"usr/x": b"1"}, **control)).name == "fine"


@pytest.mark.parametrize(
    ("control", "why"),
    [
        ({"postinst": "#!/bin/sh\nadduser x\n"}, "postinst script runs 'adduser x'"),
        ({"postinst": "#!/bin/sh\nldconfig; adduser x\n"}, "postinst"),
        ({"postinst": "#!/bin/sh\nif [ 1 ]; then adduser x; fi\n"}, "postinst"),
        ({"postinst": "#!/bin/sh\nif [ `adduser x` ]; then\nfi\n"}, "postinst"),
        ({"postinst": "#!/bin/sh\npy3compile $(adduser x)\n"}, "postinst"),
        ({"postinst": "#!/usr/bin/perl\n# x\nexit 0\n"}, "not a shell"),
        ({"preinst": "#!/bin/sh\nupdate-alternatives --install a b c 1\n"}, "preinst"),
        ({"triggers": "activate update-initramfs\n"}, "update-initramfs"),
    ],
)
def test_a_package_that_needs_its_scripts_is_refused_with_the_other_way(
    tmp_path: Path, control: dict[str, str], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why) as caught:
        deb.read(make_deb(tmp_path, "needy", {"usr/x": b"1"}, **control))
    assert "needy" in str(caught.value)
    assert "dockerfile:" in str(caught.value)


def test_special_rights_and_own_library_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="library folder"):
        deb.read(make_deb(tmp_path, "libs", {"etc/ld.so.conf.d/x.conf": b"/opt/x\n"}))
    tree = tmp_path / "tree" / "setuid"
    made = make_deb(tmp_path, "setuid", {"usr/bin/x": b"1"})
    (tree / "usr" / "bin" / "x").chmod(0o4755)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(made)], check=True, capture_output=True)
    with pytest.raises(InvalidInput, match="setuid"):
        deb.read(made)


@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd", "none"])
def test_every_compression_of_dpkg_is_read(tmp_path: Path, compression: str) -> None:
    found = deb.read(make_deb(tmp_path, "packed", {"usr/x": b"content"}, compression=compression))
    assert [data for member, data in found.members if member.isfile()] == [b"content"]


def test_files_follow_the_links_of_the_bases_folders(tmp_path: Path) -> None:
    merged = Files(links={"lib": "usr/lib", "var/run": "/run"})
    made = deb.read(make_deb(tmp_path, "merged", {"lib/x.so": b"1", "var/run/y": b"2"}))
    names = {e.name for e in deb.entries([made], merged) if not e.name.startswith("var/lib/dpkg")}
    assert names == {"usr/lib/x.so", "run/y"}


@pytest.mark.parametrize("data", [b"", b"!<arch>\n", b"!<arch>\n" + b"x" * 60, b"\x00" * 100])
def test_what_is_no_package_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.deb").write_bytes(data)
    with pytest.raises(InvalidInput, match="Debian package"):
        deb.read(tmp_path / "x.deb")


def test_sources_of_another_release_are_those_of_this_one_with_its_name() -> None:
    texts = {
        "a.sources": "Types: deb deb-src\nURIs: x:a\nSuites: bookworm bookworm-updates other\nComponents: main\n"
        "Signed-By: /k.gpg\nTrusted: yes\n\nTypes: deb\nURIs: x:b\nSuites: nodistro\nComponents: main\n",
        "b.list": "# deb x:c bookworm main\ndeb [arch=amd64 trusted=yes] x:d bookworm-security main contrib\n",
    }
    assert debian._sources(texts, "bookworm", "trixie") == [
        "Types: deb\nURIs: x:a\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: /k.gpg",
        "deb [arch=amd64] x:d trixie-security main contrib",
    ]
