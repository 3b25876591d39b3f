"""The SavedModel template with a real TensorFlow in its container: it answers what TensorFlow answers here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from berth.authoring import templates
from berth.oci.reference import ModelName
from tests.unit.authoring.detect_support import python
from tests.unit.authoring.template_containers import Containers, installed
from tests.unit.authoring.template_containers import containers as containers

pytestmark = pytest.mark.slow

MODEL = ModelName.parse("acme/mix")
ROWS = [[0.5, -1.0, 2.0, 0.25], [1.0, 1.5, -0.5, 3.0]]
SAVE = """
import json, sys
import tensorflow as tf

class Mix(tf.Module):
    def __init__(self, seed):
        self.matrix = tf.Variable(tf.random.stateless_normal((4, 3), seed=(seed, 0)))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="features")])
    def serve(self, features):
        return {"output": tf.nn.softmax(features @ self.matrix)}

mix = Mix(int(sys.argv[1]))
tf.saved_model.save(mix, sys.argv[2], signatures=mix.serve)
print(json.dumps(mix.serve(tf.constant(json.loads(sys.argv[3])))["output"].numpy().tolist()))
"""


def test_a_saved_model_answers_what_tensorflow_answers_and_other_weights_answer_otherwise(
    containers: Containers, tmp_path: Path
) -> None:
    root = tmp_path / "mix"
    templates.write(MODEL, "savedmodel", root)
    tensorflow = installed(tmp_path / "libraries", root / "requirements.txt", peer="tensorflow_cpu")
    answers = []
    for seed in (1, 2):
        expected = json.loads(python(tensorflow, SAVE, str(seed), root / "weights", json.dumps(ROWS)))
        containers.lock_and_build(root)
        told = containers.invoke("acme/mix:0.1.0", features=ROWS)["output"]
        assert told == [[pytest.approx(value, abs=1e-6) for value in row] for row in expected]
        answers.append(told)
    assert answers[0] != answers[1]
