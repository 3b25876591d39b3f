"""`berth.package`: a function or class of a notebook becomes a folder that builds, from its source alone."""

from __future__ import annotations

import functools
import importlib
import json
import linecache
import sys
from collections.abc import Callable
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import berth
from berth.authoring import manifest, project
from berth.errors import BerthError, Conflict, InvalidInput, ManifestFileInvalid
from tests.unit.authoring.detect_support import install, python
from tests.unit.authoring.template_images import on_tiny_base, started

_NUMBERS = count()
Cell = Callable[[str], dict[str, Any]]


@pytest.fixture
def cell() -> Cell:
    """Runs source as IPython runs a cell: compiled under a name that only linecache knows."""
    names: dict[str, Any] = {"__name__": "__main__"}

    def run(source: str) -> dict[str, Any]:
        name = f"<ipython-input-{next(_NUMBERS)}-0123456789ab>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), names)
        return names

    return run


def run_saved(folder: Path, owner: str, weights: dict[str, Path] | None = None, **inputs: Any) -> Any:
    """What the saved file answers, in a namespace of its own."""
    names: dict[str, Any] = {"__name__": "serve"}
    exec(compile((folder / "serve.py").read_text(), "serve.py", "exec"), names)
    model = names[owner]()
    model.weights = weights or {}
    model.setup()
    return model.predict(**inputs)


def test_a_function_takes_along_all_it_names(cell: Cell, tmp_path: Path) -> None:
    cell("import json as j, os.path\nfrom collections import OrderedDict as OD\nWORDS = {'a': [1, 2.5, None]}\n")
    cell("def inner(x):\n    return OD(x=x)\n\ndef loud(f):\n    return f\n")
    cell("unused = object()\n")
    names = cell(
        "def outer(x, sep=os.path.sep):\n    return {**inner(x), **WORDS, 'sep': sep}\n"
        "@loud\ndef predict(text: str, n: int = 2) -> str:\n"
        "    'Says it again.'\n    return j.dumps(outer(text * n))\n"
    )
    made = berth.package("acme/echo", predict=names["predict"], version="1.0.0", out=tmp_path / "p")
    assert (made.reference, made.requirements, made.notes) == ("acme/echo:1.0.0", (), ())
    answer = run_saved(made.path, "Served", text="ab")
    assert json.loads(answer) == {"x": "abab", "a": [1, 2.5, None], "sep": "/"}
    found = manifest.load(made.path).manifest
    assert found.description == "Says it again."
    assert [(v.name, v.type, v.default) for v in found.interface.inputs] == [
        ("text", "text", None),
        ("n", "integer", 2),
    ]
    assert [(v.name, v.type) for v in found.interface.outputs] == [("output", "text")]
    assert "unused" not in (made.path / "serve.py").read_text()


def test_setup_gives_a_function_its_weights(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("7")
    names = cell(
        "def load(weights):\n    return int((weights['main'] / 'w.txt').read_text())\n"
        "def predict(factor, x: int, *, more: int = 1) -> int:\n    return factor * x + more\n"
    )
    made = berth.package(
        "acme/times", predict=names["predict"], setup=names["load"], weights=tmp_path / "w.txt", out=tmp_path / "p"
    )
    assert run_saved(made.path, "Served", {"main": made.path / "weights" / "main"}, x=3) == 22
    assert [v.name for v in manifest.load(made.path).manifest.interface.inputs] == ["x", "more"]


def test_a_class_of_a_notebook(cell: Cell, tmp_path: Path) -> None:
    cell("from xumi import Model\nSTEP = 2\nclass Base(Model):\n    def setup(self):\n        self.step = STEP\n")
    names = cell(
        "class Counter(Base):\n    TIMES = STEP * 2\n"
        "    def predict(self, n: int) -> int:\n        return super().__class__ and n + self.step * self.TIMES\n"
    )
    made = berth.package("acme/counter", predict=names["Counter"], out=tmp_path / "p")
    assert run_saved(made.path, "Counter", n=1) == 9
    assert "from xumi import Model\n" in (made.path / "serve.py").read_text()


def test_a_generator_streams(cell: Cell, tmp_path: Path) -> None:
    names = cell("class S:\n    def setup(self): ...\n    def predict(self, text: str):\n        yield text\n")
    made = berth.package("acme/s", predict=names["S"], out=tmp_path / "p")
    assert manifest.load(made.path).manifest.interface.streaming


def test_weights_are_linked_not_copied_and_can_be_several(cell: Cell, tmp_path: Path) -> None:
    deep = tmp_path / "run" / "deep"
    deep.mkdir(parents=True)
    (deep / "b.bin").write_bytes(b"b")
    (tmp_path / "run" / "a.bin").write_bytes(b"a")
    (tmp_path / "run" / ".hidden").write_bytes(b"h")
    names = cell("class M:\n    def predict(self, x: int) -> int:\n        return x\n")
    made = berth.package(
        "acme/m",
        predict=names["M"],
        weights={"main": tmp_path / "run", "other": [deep / "b.bin"]},
        out=tmp_path / "p",
    )
    assert (made.path / "weights" / "main" / "a.bin").is_symlink()
    found = project.collect(made.path, manifest.load(made.path).manifest)
    assert [(w.checkpoint, w.path) for w in found.weights] == [
        ("main", "a.bin"),
        ("main", "deep/b.bin"),
        ("other", "b.bin"),
    ]
    copied = berth.package("acme/m", predict=names["M"], weights=deep, out=tmp_path / "q", copy_weights=True)
    assert not (copied.path / "weights" / "main" / "b.bin").is_symlink()


def test_requirements_are_the_installed_versions_of_what_is_imported(cell: Cell, tmp_path: Path) -> None:
    names = cell("import yaml\ndef predict(text: str) -> str:\n    import httpx.x, os\n    return yaml.dump(text)\n")
    made = berth.package("acme/y", predict=names["predict"], out=tmp_path / "p")
    assert made.requirements == (f"httpx=={metadata.version('httpx')}", f"PyYAML=={metadata.version('PyYAML')}")
    assert (made.path / "requirements.txt").read_text().splitlines() == list(made.requirements)
    given = berth.package("acme/y", predict=names["predict"], requirements=["PyYAML>=6"], out=tmp_path / "q")
    assert given.requirements == ("PyYAML>=6",)


def test_files_beside_the_notebook_come_along_when_named(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("def f(x): return x\n")
    names = cell("def predict(text: str) -> str:\n    from features import f\n    return f(text)\n")
    with pytest.raises(InvalidInput, match=r'code=\["features.py"\]'):
        berth.package("acme/f", predict=names["predict"], out=tmp_path / "p")
    made = berth.package("acme/f", predict=names["predict"], code=[tmp_path / "features.py"], out=tmp_path / "p")
    assert (made.path / "features.py").is_file()


def test_what_a_file_defines_beside_the_function_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trained_here.py").write_text(
        "FACTOR = 3\nclass Scale:\n    def __call__(self, x): return x * FACTOR\n"
        "def times(x): return Scale()(x)\ndef predict(x: int) -> int:\n    return times(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("trained_here")
    made = berth.package("acme/t", predict=module.predict, out=tmp_path / "p")
    monkeypatch.delitem(sys.modules, "trained_here")
    assert run_saved(made.path, "Served", x=5) == 15
    assert "trained_here" not in (made.path / "serve.py").read_text()


CLOSES_OVER = """
def make(value):
    def predict(text: str) -> str:
        return value
    return predict
"""


def test_plain_values_a_function_closes_over_become_constants(cell: Cell, tmp_path: Path) -> None:
    made = berth.package("acme/c", predict=cell(CLOSES_OVER)["make"]("hello"), out=tmp_path / "p")
    assert run_saved(made.path, "Served", text="x") == "hello"


class Fitted:
    """A model in memory."""

    def predict(self, x: int) -> int:
        return x


REFUSED: dict[str, tuple[str, str]] = {
    "closure": (CLOSES_OVER + "predict = make(open('/dev/null'))", "uses value, a TextIOWrapper of this session"),
    "global": ("thing = object()\ndef predict(x: int): return thing", "uses thing, a object of this session"),
    "lambda": ("predict = lambda x: x", "lambda cannot be saved"),
    "builtin": ("predict = len", "builtin_function_or_method is no function"),
    "undefined": ("def predict(x: int): return nowhere(x)", "nowhere, which is not defined"),
    "async": ("async def predict(x: int): return x", "is async"),
    "no predict": ("class predict: ...", "has no predict()"),
    "by position": ("def predict(*x): return x", "by position only"),
    "name taken": ("Served = 1\ndef predict(x: int): return Served", "The name Served is taken"),
    "two meanings": (
        CLOSES_OVER.replace("return value", "return value, other()")
        + "value = 1\ndef other(): return value\npredict = make(2)",
        "Two different things are named value",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_source_cannot_say_is_refused_with_the_way_out(cell: Cell, tmp_path: Path, case: str) -> None:
    source, message = REFUSED[case]
    with pytest.raises(InvalidInput) as caught:
        berth.package("acme/x", predict=cell(source)["predict"], out=tmp_path / "p")
    assert message in caught.value.message
    assert case in ("by position",) or caught.value.hint
    assert not (tmp_path / "p").exists()


def test_objects_and_partials_are_refused(tmp_path: Path) -> None:
    for thing in (Fitted().predict, functools.partial(print), Fitted()):
        with pytest.raises(InvalidInput):
            berth.package("acme/x", predict=thing, out=tmp_path / "p")  # type: ignore[arg-type]


def test_a_function_without_source_is_refused(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec("def predict(x: int): return x", names)
    with pytest.raises(InvalidInput, match="no source of predict"):
        berth.package("acme/x", predict=names["predict"], out=tmp_path / "p")


def test_a_function_with_weights_needs_a_setup(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "w").write_text("")
    names = cell("def predict(x: int): return x")
    with pytest.raises(InvalidInput, match="no way to its weights"):
        berth.package("acme/x", predict=names["predict"], weights=tmp_path / "w", out=tmp_path / "p")
    with pytest.raises(InvalidInput, match="no weights at"):
        berth.package("acme/x", predict=names["predict"], weights=tmp_path / "none", out=tmp_path / "p")


def test_only_what_package_wrote_is_replaced(cell: Cell, tmp_path: Path) -> None:
    names = cell("def predict(x: int) -> int: return x")
    folder = tmp_path / "p"
    berth.package("acme/x", predict=names["predict"], out=folder)
    with pytest.raises(Conflict, match="exists already"):
        berth.package("acme/x", predict=names["predict"], out=folder)
    made = berth.package("acme/x", predict=names["predict"], version="2.0.0", out=folder, force=True)
    assert manifest.load(made.path).manifest.version == "2.0.0"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(Conflict):
        berth.package("acme/x", predict=names["predict"], out=tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize("wrong", [{"name": "noproject"}, {"version": "1.0"}, {"license": "Nonsense 3"}])
def test_wrong_words_are_refused_before_anything_is_written(cell: Cell, tmp_path: Path, wrong: dict[str, str]) -> None:
    names = cell("def predict(x: int) -> int: return x")
    arguments: dict[str, Any] = {"name": "acme/x", "predict": names["predict"], "out": tmp_path / "p", **wrong}
    with pytest.raises(BerthError) as caught:
        berth.package(arguments.pop("name"), **arguments)
    assert isinstance(caught.value, InvalidInput | ManifestFileInvalid)
    assert not (tmp_path / "p").exists()


def test_berth_itself_imports_nothing_for_it() -> None:
    done = python(Path(), "import sys, berth; print(sorted(m for m in sys.modules if m.startswith('berth')))")
    assert done == "['berth']\n"


TRAINING = """
import json, sys
import joblib, numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

NAMES = load_iris().target_names.tolist()

def setup(weights):
    return joblib.load(weights["main"] / "iris.joblib")

def predict(model, features: list[list[float]]) -> list[str]:
    return [NAMES[int(n)] for n in model.predict(np.asarray(features))]

X, y = load_iris(return_X_y=True)
model = LogisticRegression(max_iter=500).fit(X, y)
joblib.dump(model, sys.argv[1] + "/iris.joblib")

import berth
made = berth.package("acme/iris", predict=predict, setup=setup, weights=sys.argv[1] + "/iris.joblib",
                     out=sys.argv[1] + "/project")
print(json.dumps({"rows": X[::9].tolist(), "names": predict(model, X[::9]), "requirements": made.requirements}))
"""


def test_a_training_job_packages_a_model_that_answers_as_it_did_there(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    libraries = install(tmp_path_factory.mktemp("libraries"))
    (tmp_path / "train.py").write_text(TRAINING)
    told = json.loads(
        python(
            libraries,
            "import runpy, sys; runpy.run_path(sys.argv[2], run_name='__main__')",
            tmp_path,
            tmp_path / "train.py",
        )
    )
    assert [line.partition("==")[0] for line in told["requirements"]] == ["joblib", "numpy", "scikit-learn"]
    on_tiny_base(tmp_path / "project")
    with started(tmp_path / "project", tmp_path, libraries) as model:
        assert model.call("/invoke", {"features": told["rows"]}) == (200, {"output": told["names"]})
