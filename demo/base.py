"""Where does the demo's base image come from? A real Debian with Python, made here from packages, as an OCI layout.

First choice is mmdebstrap; without it, as any user, the same packages are downloaded by apt and unpacked (no maintainer
script runs either way). The result is cached, and the same packages give the same bytes.
Usage: python -m demo.base FOLDER
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from berth.oci import media_types
from berth.oci.descriptor import Descriptor
from berth.oci.documents import dumps
from berth.oci.layout import Layout

SUITE = "bookworm"
PACKAGES = ("python3-minimal", "libpython3-stdlib", "base-files", "libc6", "libstdc++6", "dash", "dpkg")
# 2023-11-14; any fixed instant makes the tar repeatable.
EPOCH = 1_700_000_000
REF_NAME = "debian"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# --variant=extract registers nothing with dpkg, and a scanner would find a Debian without packages. So every unpacked
# package is written down, as what it is: unpacked, not configured.
REGISTER = (
    'for deb in "$1"/var/cache/apt/archives/*.deb; do '
    "dpkg-deb --field \"$deb\" | sed '/^Package:/a Status: install ok unpacked'; echo; "
    'done > "$1/var/lib/dpkg/status"'
)
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))


class BaseUnavailableError(Exception):
    """No way to make a base image on this machine; the text says what was tried."""


def prepare(folder: Path) -> tuple[Path, str]:
    """The layout in `folder` and a sentence on how it was made; made only once.

    Raises BaseUnavailableError.
    """
    note = folder / "made-by.txt"
    if note.is_file() and Layout(folder).resolve(REF_NAME):
        return folder, f"{note.read_text(encoding='utf-8')} (cached)"
    tried = []
    for way in (_mmdebstrap, _apt_download):
        with tempfile.TemporaryDirectory(prefix="berth-base-") as scratch:
            try:
                tar, how = way(Path(scratch))
            except BaseUnavailableError as error:
                tried.append(str(error))
                continue
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            write_layout(tar, folder)
        note.write_text(how, encoding="utf-8")
        return folder, how
    raise BaseUnavailableError("; ".join(tried))


def write_layout(tar: Path, folder: Path, *, level: int = 6) -> Descriptor:
    """One tar as a one-layer image, named REF_NAME, in an OCI layout; same tar, same digest."""
    layout = Layout(folder).create()
    diff = hashlib.sha256()

    def packed() -> Iterator[bytes]:
        buffer = io.BytesIO()
        with (
            tar.open("rb") as source,
            gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=level, mtime=0, filename="") as out,
        ):
            while piece := source.read(1 << 20):
                diff.update(piece)
                out.write(piece)
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
        yield buffer.getvalue()

    layer = layout.write_stream(packed())
    config = layout.write_blob(
        dumps(
            {
                "created": "2023-11-14T22:13:20Z",
                "architecture": architecture(),
                "os": "linux",
                "config": {
                    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    "Cmd": ["/bin/sh"],
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff.hexdigest()}"]},
                "history": [{"created": "2023-11-14T22:13:20Z", "created_by": f"Debian {SUITE}: {' '.join(PACKAGES)}"}],
            }
        )
    )
    body = dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": {"mediaType": media_types.OCI_CONFIG, "digest": config.digest, "size": config.size},
            "layers": [{"mediaType": media_types.OCI_LAYER_TAR_GZIP, "digest": layer.digest, "size": layer.size}],
        }
    )
    manifest = layout.write_blob(body)
    descriptor = Descriptor(
        media_type=media_types.OCI_MANIFEST,
        digest=manifest.digest,
        size=manifest.size,
        platform={"os": "linux", "architecture": architecture()},
    )
    layout.add(descriptor, REF_NAME)
    return descriptor


def architecture() -> str:
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def _mmdebstrap(scratch: Path) -> tuple[Path, str]:
    """A tar by mmdebstrap: from Debian's default mirror, else from the package sources of this machine."""
    if shutil.which("mmdebstrap") is None:
        raise BaseUnavailableError("mmdebstrap is not installed")
    tar = scratch / "base.tar"
    options = [
        "--variant=extract",
        f"--include={','.join(PACKAGES)}",
        "--skip=output/dev",
        f"--extract-hook={REGISTER}",
    ]
    if os.geteuid() != 0:
        options.append("--mode=unshare")
    errors = ""
    for mirrors in ([], [str(path) for path in SOURCES if path.is_file()][:1]):
        made = subprocess.run(
            ["mmdebstrap", *options, SUITE, str(tar), *mirrors],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if made.returncode == 0:
            return tar, f"mmdebstrap --variant=extract {SUITE}"
        errors = (made.stderr.strip().splitlines() or ["no message"])[-1]
    raise BaseUnavailableError(f"mmdebstrap failed: {errors}")


def _apt_download(scratch: Path) -> tuple[Path, str]:
    """The packages and what they depend on, by `apt-get download`, unpacked by dpkg-deb into one tar."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise BaseUnavailableError("this is no Debian: neither mmdebstrap nor apt-get")
    listed = subprocess.run(
        ["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks",
         "--no-replaces", "--no-enhances", *PACKAGES],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = sorted({line for line in listed.stdout.splitlines() if line and line[0].isalnum()})
    if listed.returncode != 0 or not names:
        raise BaseUnavailableError("apt has no package lists")
    fetched = subprocess.run(
        ["apt-get", "download", "-qq", *names], cwd=scratch, capture_output=True, text=True, check=False
    )
    if fetched.returncode != 0:
        raise BaseUnavailableError(
            f"apt-get download failed: {(fetched.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    root = scratch / "root"
    status = []
    # The merged layout first, so that packages with files in /bin and in /usr/bin meet.
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted(scratch.glob("*.deb")):
        content = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
        # --keep-directory-symlink: a package's ./bin/ must not replace our link.
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", str(root)], stdin=content.stdout, check=True)
        if content.wait() != 0:
            raise BaseUnavailableError(f"{package.name} can't be unpacked")
        control = subprocess.run(
            ["dpkg-deb", "--field", str(package)], capture_output=True, text=True, check=True
        ).stdout
        first, _, rest = control.partition("\n")
        status.append(f"{first}\nStatus: install ok unpacked\n{rest}")
    (root / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/status").write_text("\n".join(status) + "\n", encoding="utf-8")
    tar = scratch / "base.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as out:
        for path in sorted(root.rglob("*")):
            out.add(path, arcname=f"./{path.relative_to(root)}", recursive=False, filter=_plain)
    return tar, "apt-get download and dpkg-deb (mmdebstrap is not here)"


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Owner and time are facts of the build machine, not of the content."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = min(int(member.mtime), EPOCH)
    return member


if __name__ == "__main__":
    print(*prepare(Path(sys.argv[1])), sep="\n")
