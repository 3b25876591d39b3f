"""How is a model's image started by podman or docker? Only programs are called; nothing here needs an engine's API.

A container gets the manifest's limits, a read-only root, no capabilities, the manifest's user id, and no network unless
the manifest declares one: it is reached by a Unix socket in a folder that it shares with the host (XUMI_SOCKET).
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from berth.authoring.manifest import Manifest
from berth.authoring.repository import LocalRepository
from berth.errors import BlobUnknown, InvalidInput, Unavailable
from berth.oci import manifest as manifests
from berth.oci.descriptor import Descriptor
from berth.oci.layout import Layout

SOCKET_FOLDER = "/run/xumi"
SOCKET = f"{SOCKET_FOLDER}/model.sock"
# On every container that is started here, so that nobody else's is ever ended.
LABEL = "io.xumi.run"
STOP_SECONDS = 30
PIDS = 1024
_QUICK_SECONDS = 60
_LOAD_SECONDS = 3600
_POLICIES = (Path("/etc/containers/policy.json"), Path.home() / ".config/containers/policy.json")
_NO_ENGINE = (
    "Install podman (apt-get install podman) or docker and make sure that `{program} info` works; "
    "or run the code without a container, if you trust it: --trust-code."
)


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host, seen read-only by the container unless `writable`."""

    source: Path
    target: str
    writable: bool = False

    def option(self) -> str:
        """The value of --mount. Raises InvalidInput."""
        source = os.fspath(self.source)
        if "," in source or '"' in source or "," in self.target:
            raise InvalidInput(
                f"{source} cannot be mounted into a container: its path has a comma or a quotation mark.",
                hint="Move or rename the folder, or pull the version into another one.",
            )
        return f"type=bind,source={source},target={self.target}" + ("" if self.writable else ",readonly")


@dataclass(frozen=True)
class Limits:
    """What a container may use; None is no limit. Memory in bytes, cpus in cores."""

    memory: int | None = None
    cpus: float | None = None
    pids: int = PIDS


@dataclass(frozen=True)
class Container:
    """One container to start. Without `network` it has none but its own loopback."""

    name: str
    image: str
    manifest: Manifest
    mounts: tuple[Mount, ...] = ()
    limits: Limits = Limits()
    network: bool = False
    publish: tuple[str, int] | None = None
    socket: bool = True


def limits_of(manifest: Manifest, *, memory: int | None = None, cpus: float | None = None) -> Limits:
    """The manifest's recommended hardware, else the minimum, as limits; arguments win, and 0 is no limit."""
    levels = [level for level in (manifest.hardware.recommended, manifest.hardware.minimum) if level is not None]
    if memory is None:
        memory = next((level.memory for level in levels if level.memory), None)
    if cpus is None:
        cpus = next((level.cpu for level in levels if level.cpu), None)
    # An engine refuses more processors than there are.
    return Limits(memory or None, min(cpus, float(os.cpu_count() or 1)) if cpus else None)


@dataclass(frozen=True)
class Engine:
    """A container program and how it is called, such as ("podman",) or ("podman", "--root", DIR)."""

    kind: Literal["podman", "docker"]
    command: tuple[str, ...]

    def call(self, *arguments: str, seconds: float = _QUICK_SECONDS) -> subprocess.CompletedProcess[str]:
        """One short command. Raises Unavailable when it takes too long or cannot be started."""
        try:
            return subprocess.run(
                [*self.command, *arguments], capture_output=True, text=True, errors="replace", check=False,
                timeout=seconds, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"`{shlex.join([*self.command, *arguments[:1]])}` failed: {error}.") from error

    def check(self) -> None:
        """Raises Unavailable with the program's own words when it does not work here."""
        said = self.call("info", "--format", "{{.}}")
        if said.returncode != 0:
            raise Unavailable(
                f"{self.command[0]} does not work here: {last_line(said.stderr or said.stdout)}",
                hint=_NO_ENGINE.format(program=self.command[0]),
            )

    def load(self, repository: LocalRepository, image: Descriptor, *, name: str) -> str:
        """Makes an image of the local repository known to the engine; returns what it is started by.

        Args:
            image: an image manifest's descriptor.
            name: the version, such as "acme/echo:1.0.0".
        Raises:
            BlobUnknown: the repository holds no layer of it.
            Unavailable: the engine refuses it.
        """
        manifest = manifests.parse(repository.manifest(image.digest))
        absent = [blob.digest for blob in manifest.blobs() if not repository.layout.has(blob.digest)]
        if absent:
            raise BlobUnknown(
                f"The local repository does not hold {absent[0]}, a layer of {name}.",
                hint="Build it again; or name an image that the engine can pull: --image.",
            )
        if self.kind == "podman":
            return self._load_podman(repository.layout, manifest, image, name=name)
        return self._load_docker(repository.layout, manifest, image, name=name)

    def pull(self, reference: str) -> str:
        """Makes an image of a registry known to the engine. Raises Unavailable."""
        if self.call("image", "inspect", "--format", "{{.Id}}", reference).returncode != 0:
            said = self.call("pull", "--quiet", reference, seconds=_LOAD_SECONDS)
            if said.returncode != 0:
                raise Unavailable(
                    f"{self.command[0]} cannot pull {reference}: {last_line(said.stderr)}",
                    hint=f"Try `{shlex.join(self.command)} pull {reference}` first.",
                )
        return reference

    def run(self, container: Container) -> list[str]:
        """The command that starts `container` and stays with it. Raises InvalidInput."""
        manifest, limits = container.manifest, container.limits
        user = manifest.runtime.user
        options = ["--rm", "--name", container.name, "--label", f"{LABEL}={container.name}", "--pull", "never"]
        options += ["--user", f"{user}:{user}"]
        options += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", str(limits.pids)]
        # Otherwise SELinux keeps the container from what is mounted, unless the user's own files were relabelled.
        options += ["--security-opt", "label=disable", "--stop-timeout", str(STOP_SECONDS)]
        options += ["--tmpfs", "/tmp:rw,nosuid,nodev,mode=1777"]  # noqa: S108 - the container's own
        if not manifest.runtime.writable:
            options += ["--read-only"]
        if limits.memory:
            options += ["--memory", str(limits.memory)]
        if limits.cpus:
            options += ["--cpus", f"{limits.cpus:g}"]
        if manifest.runtime.shm:
            options += ["--shm-size", str(manifest.runtime.shm)]
        if not container.network:
            options += ["--network", "none"]
        if container.publish:
            host, port = container.publish
            options += ["--publish", f"{host}:{port}:{manifest.runtime.port}"]
        if container.socket:
            options += ["--env", f"XUMI_SOCKET={SOCKET}"]
        for mount in container.mounts:
            options += ["--mount", mount.option()]
        return [*self.command, "run", *options, *self._devices(manifest), container.image]

    def label(self, name: str) -> str | None:
        """What `LABEL` says on a container; "" when it is somebody else's, None when there is no such container."""
        words = ("inspect", "--type", "container", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', name)
        said = self.call(*words)
        return said.stdout.strip().replace("<no value>", "") if said.returncode == 0 else None

    def pid(self, name: str) -> int | None:
        """The number on this machine of a container's first process; None while or when it has none."""
        said = self.call("inspect", "--type", "container", "--format", "{{.State.Pid}}", name)
        text = said.stdout.strip()
        return int(text) if said.returncode == 0 and text.isdecimal() and int(text) > 0 else None

    def stop(self, name: str, *, seconds: int = STOP_SECONDS) -> None:
        """Ends a container in order, after `seconds` by force; one that is gone already is fine."""
        self.call("stop", "--time", str(seconds), name, seconds=seconds + _QUICK_SECONDS)
        self.call("rm", "--force", name)

    def _devices(self, manifest: Manifest) -> list[str]:
        """Options that let the container see its accelerators."""
        gpu = manifest.hardware.minimum.gpu
        if gpu is None:
            return []
        if gpu.vendor == "amd":
            return ["--device", "/dev/kfd", "--device", "/dev/dri"]
        if gpu.vendor == "intel":
            return ["--device", "/dev/dri"]
        # podman knows NVIDIA's devices by CDI names, docker by an option of its own.
        return ["--device", "nvidia.com/gpu=all"] if self.kind == "podman" else ["--gpus", str(gpu.count)]

    def _load_podman(self, layout: Layout, manifest: manifests.Manifest, image: Descriptor, *, name: str) -> str:
        # An image is known by the digest of its config.
        identity = manifest.config.digest.partition(":")[2] if manifest.config else ""
        if self.call("image", "exists", identity).returncode == 0:
            return identity
        with _named_folder() as scratch:
            only = _only(layout, image, scratch)
            policy: list[str] = []
            if not any(path.exists() for path in _POLICIES):
                file = scratch / "policy.json"
                file.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}), encoding="utf-8")
                policy = ["--signature-policy", str(file)]
            said = self.call("pull", "--quiet", *policy, f"oci:{only}", seconds=_LOAD_SECONDS)
        if said.returncode != 0:
            raise Unavailable(f"{self.command[0]} cannot load the image: {last_line(said.stderr)}")
        # podman named it after the scratch folder.
        self.call("tag", identity, _tag(name, image))
        self.call("untag", identity, f"localhost{only}:latest")
        return identity

    def _load_docker(self, layout: Layout, manifest: manifests.Manifest, image: Descriptor, *, name: str) -> str:
        tag = _tag(name, image)
        if self.call("image", "inspect", tag).returncode == 0:
            return tag
        process = subprocess.Popen(
            [*self.command, "load", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes, as asked for
        try:
            write_docker_archive(process.stdin, layout, manifest, tag=tag)
            process.stdin.close()
        except BrokenPipeError:
            pass  # docker says below why it stopped reading
        text = process.stdout.read().decode("utf-8", "replace")
        if process.wait() != 0:
            raise Unavailable(f"{self.command[0]} cannot load the image: {last_line(text)}")
        return tag


@contextmanager
def _named_folder() -> Iterator[Path]:
    """A private temporary folder whose path podman can read as an image name, which random `_` would spoil."""
    folder = Path(tempfile.gettempdir()) / f"xumi-image-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_engine(wanted: str = "auto") -> Engine:
    """A working engine.

    Args:
        wanted: "auto" (podman, else docker), a program, or a whole command line such as "podman --root DIR".
    Raises:
        Unavailable: none works here; the message has each one's reason, the hint the next step.
        InvalidInput: `wanted` names neither podman nor docker.
    """
    if wanted != "auto":
        words = tuple(shlex.split(wanted))
        names = [Path(word).name for word in words]
        kind = next((k for k in ("podman", "docker") if k in names), None)
        if kind is None:
            raise InvalidInput(f"{wanted!r} is no container engine.", hint="Write podman, docker or auto.")
        if shutil.which(words[0]) is None:
            raise Unavailable(f"There is no program {words[0]}.", hint=_NO_ENGINE.format(program=words[0]))
        engine = Engine("podman" if kind == "podman" else "docker", words)
        engine.check()
        return engine
    problems = []
    for program in ("podman", "docker"):
        if shutil.which(program) is None:
            problems.append(f"{program} is not installed")
            continue
        engine = Engine("podman" if program == "podman" else "docker", (program,))
        try:
            engine.check()
        except Unavailable as error:
            problems.append(error.message.rstrip("."))
        else:
            return engine
    raise Unavailable(
        f"No container engine is usable here: {'; '.join(problems)}.", hint=_NO_ENGINE.format(program="podman")
    )


def write_docker_archive(out: IO[bytes], layout: Layout, manifest: manifests.Manifest, *, tag: str) -> None:
    """Writes the tar that `docker load` reads: manifest.json, config, layers (compressed as they are)."""
    if manifest.config is None:
        raise InvalidInput("The image has no config.")
    config = f"{manifest.config.digest.partition(':')[2]}.json"
    names = [f"{index:03d}-{layer.digest.partition(':')[2]}/layer.tar" for index, layer in enumerate(manifest.layers)]
    listed = json.dumps([{"Config": config, "RepoTags": [tag], "Layers": names}]).encode()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, digest in [(config, manifest.config.digest), *zip(names, _digests(manifest.layers), strict=True)]:
            member = tarfile.TarInfo(name)
            member.size = layout.size(digest)
            with layout.open(digest) as blob:
                archive.addfile(member, blob)
        member = tarfile.TarInfo("manifest.json")
        member.size = len(listed)
        archive.addfile(member, io.BytesIO(listed))


def last_line(text: str) -> str:
    """What a program said at the end."""
    return (text.strip().splitlines() or ["no message"])[-1]


def _tag(name: str, image: Descriptor) -> str:
    """What the engine calls an image of the local repository; another build of the version has another tag."""
    repository, _, version = name.partition(":")
    return f"xumi.local/{repository}:{(version or 'none').replace('+', '_')[:100]}-{image.digest[7:19]}"


def _digests(layers: Sequence[Descriptor]) -> list[str]:
    return [layer.digest for layer in layers]


def _only(layout: Layout, image: Descriptor, scratch: Path) -> Path:
    """A layout that names one image and shares the blobs of `layout`: engines choose for themselves from an index."""
    folder = scratch / "layout"
    folder.mkdir()
    (folder / "blobs").symlink_to((layout.path / "blobs").resolve())
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")
    entry = {"mediaType": image.media_type, "digest": image.digest, "size": image.size}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}), encoding="utf-8")
    return folder
