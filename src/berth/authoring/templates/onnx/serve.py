"""Serves an ONNX model: `interface` in xumi.yaml lists what its graph takes and gives, in the same order."""

from __future__ import annotations

from typing import Any

import numpy
import onnxruntime

from xumi import Model


class OnnxModel(Model):
    def setup(self) -> None:
        # `files` of the checkpoint `main`; the runtime made sure that they are there.
        path = sorted(self.weights["main"].rglob("*.onnx"))[0]
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        interface = self.manifest["interface"]
        self.inputs = [
            (field["name"], port.name) for field, port in zip(interface["inputs"], self.session.get_inputs())
        ]
        self.outputs = [field["name"] for field in interface["outputs"]]

    def predict(self, **inputs: Any) -> dict[str, Any]:
        feed = {port: numpy.asarray(inputs[name]) for name, port in self.inputs if name in inputs}
        return dict(zip(self.outputs, self.session.run(None, feed)))
