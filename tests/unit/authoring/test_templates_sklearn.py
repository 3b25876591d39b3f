"""The scikit-learn template from training to a call: the answer is scikit-learn's own, and follows the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from berth.authoring import detect, detect_draft, manifest, templates
from berth.oci.reference import ModelName
from tests.unit.authoring.detect_support import install, python
from tests.unit.authoring.template_images import on_tiny_base, started

MODEL = ModelName.parse("acme/iris")
TRAIN = """
import json, sys
import joblib
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.dummy import DummyClassifier

X, y = load_iris(return_X_y=True)
if sys.argv[1] == "forest":
    estimator = RandomForestClassifier(n_estimators=10, random_state=0).fit(X, y)
else:
    estimator = DummyClassifier(strategy="constant", constant=2).fit(X, y)
joblib.dump(estimator, sys.argv[2])
print(json.dumps({"rows": X[::7].tolist(), "predictions": estimator.predict(X[::7]).tolist()}))
"""


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("libraries"))


def trained(libraries: Path, kind: str, path: Path) -> dict[str, list[object]]:
    told: dict[str, list[object]] = json.loads(python(libraries, TRAIN, kind, path))
    return told


def test_invoke_answers_what_predict_answers_and_other_weights_answer_otherwise(
    libraries: Path, tmp_path: Path
) -> None:
    answers = []
    for kind in ("forest", "dummy"):
        root = tmp_path / kind / "project"
        templates.write(MODEL, "sklearn", root)
        expected = trained(libraries, kind, root / "weights" / "model.joblib")
        on_tiny_base(root)
        with started(root, tmp_path / kind, libraries) as model:
            status, answer = model.call("/invoke", {"features": expected["rows"]})
            assert (status, answer) == (200, {"predictions": expected["predictions"]})
            assert model.call("/invoke", {"features": "nothing"})[0] == 422
        answers.append(answer)
    assert answers[0] != answers[1]


def test_init_finds_the_estimator_and_what_it_writes_serves_it(libraries: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    expected = trained(libraries, "forest", root / "iris.joblib")
    draft = detect_draft.draft(MODEL, detect.look(root))
    templates.write_files(draft.files, root)
    version = python(libraries, "import sklearn; print(sklearn.__version__)").strip()
    assert f"scikit-learn=={version}" in (root / "requirements.txt").read_text().splitlines()
    on_tiny_base(root)
    assert manifest.load(root).manifest.checkpoints[0].files == ["iris.joblib"]
    with started(root, tmp_path, libraries) as model:
        assert model.call("/invoke", {"features": expected["rows"]}) == (200, {"predictions": expected["predictions"]})
