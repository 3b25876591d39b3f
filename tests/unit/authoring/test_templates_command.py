"""The template for any command with a program in C, in an image that holds nothing else: no Python and no shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

from berth.authoring import templates
from berth.oci.reference import ModelName
from tests.support.processes import needs
from tests.unit.authoring.conftest import make_base
from tests.unit.authoring.template_containers import Containers
from tests.unit.authoring.template_containers import containers as containers

SOURCE = Path(__file__).with_name("line_model.c")


def test_a_program_in_c_answers_by_its_weights(containers: Containers, tmp_path: Path) -> None:
    compiler = needs("gcc")
    root = tmp_path / "line"
    templates.write(ModelName.parse("acme/line"), "command", root)
    # What a person changes: the program, its inputs and outputs, the base, the weights.
    (root / "server.py").unlink()
    subprocess.run([compiler, "-O1", "-Wall", "-D_GNU_SOURCE", "-static", "-o", root / "server", SOURCE], check=True)
    text = (root / "xumi.yaml").read_text()
    for old, new in (
        ("[python3, server.py]", "[./server]"),
        ('  python: "3.11"\n', "  python: null\n"),
        ("    - name: text\n      type: text\n      max_length: 10000\n", "    - {name: x, type: number}\n"),
        ("    - name: text\n      type: text\n", "    - {name: y, type: number}\n"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (root / "xumi.yaml").write_text(text + '\ncheckpoints:\n  - {name: main, root: weights, files: ["*.txt"]}\n')
    (root / "weights").mkdir()
    base = make_base(tmp_path / "base", files={"etc/nothing": b""})
    answers = []
    for slope, offset in ((2.0, 0.5), (-1.25, 3.0)):
        (root / "weights" / "line.txt").write_text(f"{slope} {offset}\n")
        containers.lock_and_build(root, base=base)
        answers.append(containers.invoke("acme/line:0.1.0", "--network", x=1.5))
        assert answers[-1] == {"y": slope * 1.5 + offset}
    assert answers == [{"y": 3.5}, {"y": 1.125}]
