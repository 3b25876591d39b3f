"""What runs inside a model's container: the base class, the HTTP server, the contract check and the weights.

Standard library only, Python 3.9 or newer; copied into every image as a layer of its own.

    from xumi import Model

    class Classifier(Model):
        def setup(self):
            self.path = self.weights["main"] / "model.onnx"

        def predict(self, text):
            return {"label": "greeting"}
"""

from __future__ import annotations

from xumi.model import Model
from xumi.problems import InvalidInput
from xumi.values import File, Tensor

__all__ = ["File", "InvalidInput", "Model", "Tensor"]
