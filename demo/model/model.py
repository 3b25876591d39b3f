"""What kind of file is this? A small network over the first and last bytes of a file (github.com/google/magika)."""

import json

import numpy
import onnxruntime

from xumi import Model


class FileType(Model):
    """Answers with the content type of some bytes and how sure it is."""

    def setup(self):
        folder = self.weights["network"]
        with open(folder / "config.min.json", encoding="utf-8") as file:
            self.config = json.load(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def predict(self, content):
        scores = self.session.run(["target_label"], {"bytes": self.features(content.data)})[0][0]
        best = int(scores.argmax())
        return {"label": self.config["target_labels_space"][best], "score": float(scores[best])}

    def features(self, data):
        """The network's input: so many bytes of both ends without white space around them, padded with a token."""
        config = self.config
        block, token = config["block_size"], config["padding_token"]
        head = data[:block].lstrip()[: config["beg_size"]]
        tail = data[-block:].rstrip()[-config["end_size"] :]
        row = numpy.full(config["beg_size"] + config["end_size"], token, dtype=numpy.int32)
        row[: len(head)] = list(head)
        if tail:
            row[-len(tail) :] = list(tail)
        return row[None, :]
