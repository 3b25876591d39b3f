"""How does what was found become a first manifest? `detect.Found` → the text of xumi.yaml and the files it needs.

Every line that is not the author's own word says where it comes from, or that it is a guess. What a template brings
(code that serves, pinned requirements) is taken from there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from berth.authoring import detect_hints, templates
from berth.authoring.detect import Found, Weights
from berth.authoring.detect_archives import Pickle
from berth.authoring.detect_cards import Card
from berth.authoring.detect_interface import of_task, ports
from berth.authoring.detect_onnx import Onnx
from berth.authoring.detect_tensors import Gguf, Safetensors
from berth.authoring.detect_yaml import MIB, comment, flow, human_size, quoted, round_up
from berth.authoring.manifest import FILE_NAME, parse
from berth.authoring.project import IGNORE_FILE
from berth.errors import ManifestFileInvalid
from berth.oci.reference import ModelName

_TEMPLATES = {
    "safetensors": "pytorch",
    "gguf": "gguf",
    "onnx": "onnx",
    "savedmodel": "savedmodel",
    "torchscript": "pytorch",
    "pytorch": "pytorch",
    "pickle": "sklearn",
}
_ON_GPUS = frozenset({"pytorch", "transformers", "gguf", "savedmodel"})
_OVERHEAD = {"onnx": 256, "sklearn": 512, "gguf": 1024}
_TAG = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
_GLOB = re.compile(r"([*?[])")
_MAX_LISTED = 200


@dataclass(frozen=True)
class Draft:
    """Files to write by name, and what to tell: facts with where they are from, and guesses to look over."""

    files: Mapping[str, str]
    template: str | None
    found: tuple[str, ...]
    guessed: tuple[str, ...]


def draft(model: ModelName, seen: Found, *, author: str = "") -> Draft:
    """The first manifest for a folder, with code that serves when the folder has none."""
    return _Drafting(model, seen, author).draft()


class _Drafting:
    def __init__(self, model: ModelName, seen: Found, author: str) -> None:
        self.model, self.seen, self.author = model, seen, author
        self.weights = seen.weights[0] if seen.weights else None
        self.template = None if seen.code else self._template()
        self.brought = templates.texts(model, self.template, author=author) if self.template else {}
        self.found: list[str] = []
        self.guessed: list[str] = []
        self.lines: list[str] = []

    def draft(self) -> Draft:
        self._tell_what_was_seen()
        requirements = self._requirements()
        self._identity()
        self._interface()
        self._entry(requirements)
        self._hardware()
        self._checkpoints()
        text = "\n".join(self.lines) + "\n"
        files = {FILE_NAME: text, **self._code(requirements)}
        parse(text)
        return Draft(files, self.template, tuple(self.found), tuple(self.guessed))

    def _template(self) -> str:
        if self.weights is None:
            return "command"
        if self.weights.library == "transformers":
            return "transformers"
        return _TEMPLATES.get(self.weights.format, "command")

    def _card(self, name: str) -> Card | None:
        """The first card that says something about `name`."""
        return next((c for c in self.seen.cards if getattr(c, name)), None)

    def _tell_what_was_seen(self) -> None:
        for weights in self.seen.weights:
            count = "1 file" if len(weights.files) == 1 else f"{len(weights.files)} files"
            self.found.append(f"{weights.format} weights: {count} in {weights.root}, {human_size(weights.size)}")
        for card in self.seen.cards:
            self.found.append(f"{card.source}")
        if self.seen.code:
            self.found.append(f"the class {self.seen.code.entry} in {self.seen.code.file}")
        if isinstance(self.seen.requirements, str):
            self.found.append(self.seen.requirements)

    def _identity(self) -> None:
        title = self._card("title")
        put = self.lines.append
        put(
            "# What this model is and needs, as `xumi init` found it. Look it over: lines marked `guessed` are guesses."
        )
        put("# `xumi validate` explains every mistake with its line.")
        put("xumi: 1")
        put(f"name: {self.model}")
        put("version: 0.1.0")
        if title and title.title:
            put(f"title: {quoted(title.title[:120])}  # from {title.source}")
        else:
            put(f"title: {quoted(templates.title_of(self.model)[:120])}")
        description = self._card("description")
        if description and description.description:
            put(f"description: {quoted(description.description)}  # from {description.source}")
        else:
            put("description: |\n  What the model does, what it was trained on, and where it fails.")
        authors = self._card("authors")
        if self.author or authors is None:
            put(f"authors:\n  - {quoted(self.author or templates.team_of(self.model))}")
        else:
            put(f"authors:  # from {authors.source}")
            self.lines += [f"  - {quoted(name)}" for name in authors.authors[:_MAX_LISTED]]
        self._license()
        card = self._card("homepage")
        if card and card.homepage:
            put(f"links:\n  homepage: {quoted(card.homepage)}  # from {card.source}")
        card = self._card("tags")
        tags = list(dict.fromkeys(t for t in map(str.lower, card.tags) if _TAG.match(t)))[:100] if card else []
        if card and tags:
            put(f"tags: {json.dumps(tags)}  # from {card.source}")
        elif self.weights:
            put(f"tags: [{self.weights.library if self.weights.library == 'transformers' else self.weights.format}]")

    def _license(self) -> None:
        card = self._card("license")
        given, source = (card.license, card.source) if card else (None, "")
        facts = self.weights.facts if self.weights else None
        if given is None and isinstance(facts, Gguf) and facts.text("general.license"):
            given, source = facts.text("general.license"), "the weights' header"
        if given is None:
            self.lines.append("# SPDX licence expression, for example Apache-2.0; nothing here says which.")
            self.lines.append("license: LicenseRef-Proprietary  # guessed")
            self.guessed.append("license: nothing says which; LicenseRef-Proprietary stands there")
            return
        if _is_license(given):
            self.lines.append(f"license: {quoted(given)}  # from {source}")
            return
        own = "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.-]+", "-", given).strip("-.")[:60] or "Own")
        self.lines.append(f"license: {own}  # {source} says {quoted(given[:60])}, which is no SPDX expression")
        self.guessed.append(f"license: {given[:60]!r} is not in the SPDX list; {own} stands there")

    def _interface(self) -> None:
        inputs, outputs, source = self._values()
        self.lines += ["", f"interface:  # {source}"]
        for side, values in (("inputs", inputs), ("outputs", outputs)):
            if values:
                self.lines.append(f"  {side}:")
            for value in values:
                keys = [f"{key}: {flow(item)}" for key, item in value.items()]
                self.lines += [f"    - {keys[0]}", *(f"      {key}" for key in keys[1:])]

    def _values(self) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]], str]:
        """(inputs, outputs, where they are from)."""
        code, weights = self.seen.code, self.weights
        if code and code.signature and (code.signature.parameters or code.signature.returns.kind):
            open_ones = [p.name for p in code.signature.parameters if p.hint.kind is None]
            if open_ones:
                self.guessed.append(f"interface: {', '.join(open_ones)} have no hint that says more than `object`")
            if any(p.hint.kind == "tensor" for p in code.signature.parameters):
                self.guessed.append("interface: dtype and shape of the tensors")
            found, source = code.signature, f"from the hints of {code.entry}; dtypes and shapes of tensors are guessed"
            return detect_hints.inputs(found), detect_hints.outputs(found), source
        if code is None and weights and isinstance(weights.facts, Onnx):
            inputs, outputs = ports(weights.facts.inputs, "input"), ports(weights.facts.outputs, "output")
            if outputs:
                return inputs, outputs, f"from the graph in {_largest(weights)}"
        card = next((c for c in self.seen.cards if c.inputs), None)
        if card and self.template == "sklearn":
            return card.inputs, self._template_values()[1], f"inputs from the signature in {card.source}"
        task = self._task()
        if self.template == "transformers" and task:
            return (*of_task(task), f"guessed from the task {task}")
        self.guessed.append("interface: nothing says what the model takes and gives")
        if self.template:
            return (*self._template_values(), "guessed")
        return [], [{"name": "output", "type": "object"}], "guessed"

    def _template_values(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        interface = parse(self.brought[FILE_NAME]).manifest.interface
        both = [
            [v.model_dump(mode="json", by_alias=True, exclude_defaults=True) for v in side]
            for side in (interface.inputs, interface.outputs)
        ]
        return both[0], both[1]

    def _task(self) -> str | None:
        card = self._card("task")
        return card.task if card else None

    def _entry(self, requirements: str | Sequence[str] | None) -> None:
        put = self.lines.append
        base, python, source = "docker.io/library/python:3.11-slim", "3.11", "guessed"
        command: list[str] | None = None
        entry: str | None = None
        concurrency, system_packages = 1, list[str]()
        if self.template:
            own = parse(self.brought[FILE_NAME]).manifest
            system_packages = own.runtime.system_packages
            base, python = own.runtime.base or base, own.runtime.python or python
            command, entry = own.entry.command, own.entry.python
            concurrency = own.runtime.concurrency
        elif self.seen.code:
            entry = self.seen.code.entry
        card = self._card("python")
        if card and card.python:
            python, source = card.python, f"from {card.source}"
            base = f"docker.io/library/python:{python}-slim"
        put("\nentry:")
        if command:
            put("  # Any program that answers GET /healthz/live, GET /healthz/ready and POST /invoke on runtime.port.")
            put(f"  command: {json.dumps(command)}  # guessed")
            self.guessed.append("entry: nothing here can be served by itself; server.py is an example to replace")
        else:
            put(f"  python: {entry}")
        put("\nruntime:")
        put("  # An image with Python, or oci-layout:PATH for one in a folder.")
        put(f"  base: {base}")
        put(f'  python: "{python}"  # {source}')
        self.guessed.append(f"runtime.base: {base}")
        if isinstance(requirements, str):
            put(f"  requirements: {quoted(requirements)}")
        elif requirements:
            put("  requirements:")
            self.lines += [f"    - {quoted(line)}" for line in requirements]
        if system_packages:
            put(f"  system_packages: {json.dumps(system_packages)}")
        if concurrency > 1:
            put(f"  concurrency: {concurrency}")
        if self.template == "transformers":
            put("  environment:\n    # The files in the checkpoint are all it needs.")
            put('    HF_HUB_OFFLINE: "1"')

    def _requirements(self) -> str | Sequence[str] | None:
        given = self.seen.requirements
        if given is not None:
            return given
        return "requirements.txt" if "requirements.txt" in self.brought else None

    def _hardware(self) -> None:
        size = self.weights.size if self.weights else 0
        overhead = _OVERHEAD.get(self.template or "", 1024)
        memory = round_up(int(size * 1.2) + overhead * MIB)
        note = f"guessed: {human_size(size)} of weights, and room to work" if size else "guessed"
        self.lines += ["", "hardware:", "  architectures: [amd64]", "  minimum:", *self._processor()]
        self.lines.append(f"    memory: {memory}  # {note}")
        if size:
            self.lines.append(f"    disk: {round_up(size + 256 * MIB)}  # the weights and a little more")
        self.guessed.append(f"hardware.minimum: 1 CPU and {memory} of memory")
        wants_gpu = any(c.gpu for c in self.seen.cards)
        if wants_gpu or (size >= 1024 * MIB and self.template in _ON_GPUS):
            self.lines += [
                "  recommended:",
                f"    gpu: {{count: 1, memory: {round_up(int(size * 1.2) + 1024 * MIB)}}}  # {note}",
            ]
            self.guessed.append("hardware.recommended: a GPU that holds the weights")

    def _processor(self) -> list[str]:
        own = parse(self.brought[FILE_NAME]).manifest.hardware.minimum.cpu_features if self.template else []
        features = [f"    cpu_features: [{', '.join(own)}]  # what its packages are compiled for"] if own else []
        return ["    cpu: 1  # guessed", *features]

    def _checkpoints(self) -> None:
        weights = self.weights
        if weights is None:
            return
        put = self.lines.append
        files = self._served_files(weights)
        put("\ncheckpoints:")
        put("  # These files become an artifact of their own and are mounted at /weights/main.")
        for line in _facts(weights):
            put(f"  # {line}")
        put("  - name: main")
        put(f"    root: {quoted(weights.root)}")
        put("    files:")
        self.lines += [f"      - {quoted(_escaped(name))}" for name in files[:1000]]
        put(f"    format: {weights.format}")
        left = sorted(set(weights.files) - set(files))
        if self.template and weights.format in ("onnx", "pickle", "torchscript") and len(files) > 1:
            self.guessed.append(f"checkpoints: serve.py loads only the first file of {', '.join(files)[:300]}")
        if left:
            self.guessed.append(f"checkpoints: {files[0]} is served; left out: {', '.join(left)[:300]}")
        if len(self.seen.weights) > 1:
            others = ", ".join(w.format for w in self.seen.weights[1:])
            self.guessed.append(f"checkpoints: {weights.format} is served; the files in {others} are left out")

    def _served_files(self, weights: Weights) -> Sequence[str]:
        """All files of the format; of GGUF, where each file is a model, the first one with all its parts."""
        if weights.format != "gguf":
            return weights.files
        stem = re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", weights.files[0])
        parts = [f for f in weights.files if re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", f) == stem]
        return parts or weights.files[:1]

    def _code(self, requirements: str | Sequence[str] | None) -> dict[str, str]:
        """The template's files that the folder does not have, fitted to what was found."""
        skipped = {FILE_NAME, "README.md", IGNORE_FILE}
        if requirements != "requirements.txt" or self.seen.requirements is not None:
            skipped.add("requirements.txt")
        scripted = self.weights is not None and self.weights.format == "torchscript"
        if scripted:
            skipped.add("network.py")
        files = {name: text for name, text in self.brought.items() if name not in skipped}
        facts = self.weights.facts if self.weights else None
        if "serve.py" in files:
            text = files["serve.py"]
            if scripted:
                text = text.replace("SCRIPTED = False", "SCRIPTED = True")
            if self._task() and self.template == "transformers":
                text = text.replace('TASK = "text-classification"', f"TASK = {quoted(str(self._task()))}")
            if isinstance(facts, Gguf) and facts.chat:
                text = text.replace("CHAT = False", "CHAT = True")
            files["serve.py"] = text
        if "requirements.txt" in files and isinstance(facts, Pickle) and facts.sklearn_version:
            version = facts.sklearn_version
            files["requirements.txt"] = re.sub(
                r"(?m)^scikit-learn==.*$", f"scikit-learn=={version}", files["requirements.txt"]
            )
            self.guessed.append(f"requirements.txt: scikit-learn {version}, read from the text of the pickle")
        if "network.py" in files:
            self.guessed.append("network.py: an example; put the network there that the weights belong to")
        if not (self.seen.root / IGNORE_FILE).exists():
            files[IGNORE_FILE] = self._ignore()
        return {name: text for name, text in files.items() if name == FILE_NAME or self._is_free(name)}

    def _is_free(self, name: str) -> bool:
        path = Path(self.seen.root / name)
        if path.exists() or path.is_symlink():
            self.guessed.append(f"{name} is there already and was left as it is; entry and requirements must fit it")
            return False
        return True

    def _ignore(self) -> str:
        lines = ["# Files that are not part of the model, by the rules of .gitignore."]
        lines += ["tests/", "notebooks/", "data/", ".env"]
        served = set(_full_names(self.weights, self._served_files(self.weights))) if self.weights else set()
        for weights in self.seen.weights:
            lines += [f"/{_escaped(name)}" for name in _full_names(weights, weights.files) if name not in served]
        return "\n".join(lines) + "\n"


def _full_names(weights: Weights, files: Iterable[str]) -> list[str]:
    """Relative to the project."""
    return [name if weights.root == "." else f"{weights.root}/{name}" for name in files]


def _escaped(name: str) -> str:
    """A glob pattern that matches only this name."""
    return _GLOB.sub(r"[\1]", name)


def _facts(weights: Weights) -> list[str]:
    """What the header says, for a comment."""
    match weights.facts:
        case Safetensors(tensors=tensors, parameters=parameters, dtypes=dtypes):
            return [f"The largest file: {parameters} numbers of {', '.join(dtypes)}; tensors: {tensors}."]
        case Gguf() as facts:
            values = [facts.text(f"general.{key}") for key in ("name", "architecture", "size_label")]
            said = ", ".join(comment(v) for v in values if v)
            context = f", {facts.context_length} tokens of context" if facts.context_length else ""
            numbers = f", {facts.parameters} numbers of {', '.join(facts.dtypes)}" if facts.dtypes else ""
            return [f"GGUF: {said or 'no name'}{context}{numbers}."]
        case Onnx() as facts:
            by = f" by {comment(facts.producer)}" if facts.producer else ""
            return [f"ONNX: opset {facts.opset}, IR {facts.ir_version}{by}."]
        case Pickle(library=library, class_name=name) if library:
            return [f"A pickle; its text names {library}{f' and {name}' if name else ''}. It was not loaded."]
    return []


def _largest(weights: Weights) -> str:
    return weights.files[0] if len(weights.files) == 1 else "the largest file"


def _is_license(text: str) -> bool:
    probe = (
        f"xumi: 1\nname: a/b\nversion: 0.0.0\nlicense: {quoted(text)}\nentry: {{command: [x]}}\nruntime: {{base: x}}\n"
    )
    try:
        parse(probe)
    except ManifestFileInvalid:
        return False
    return True
