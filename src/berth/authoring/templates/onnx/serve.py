"""Serves an ONNX model: what the session takes and gives is what `interface` in xumi.yaml must say."""

from __future__ import annotations

from typing import Any

import numpy
import onnxruntime

from xumi import Model


class OnnxModel(Model):
    def setup(self) -> None:
        # `files` of the checkpoint `main`; the runtime made sure that they are there.
        path = sorted(self.weights["main"].glob("*.onnx"))[0]
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.input_name = self.session.get_inputs()[0].name

    def predict(self, features: Any) -> dict[str, Any]:
        outputs = self.session.run(None, {self.input_name: numpy.asarray(features)})
        return {"output": outputs[0]}
