"""`xumi verify`: are there signatures by this key? Checked on this machine; the service's opinion plays no part."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from berth.cli.main import EXIT_ERROR
from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth
from berth.client.keyfiles import read_public


def verify(
    ref: Annotated[str, typer.Argument(help="project/model:version, alias or @digest.")],
    key: Annotated[list[Path], typer.Option("--key", help="Public key, e.g. release.pub; can be given again.")],
    output: OutputOption = Format.text,
) -> int:
    """Check the signatures of a version with public keys. Exit code 0: signed by one of them, 1: not.

    Example: xumi verify acme/file-type:1.0.0 --key release.pub
    """
    keys = [read_public(file) for file in key]
    with Berth.from_settings() as berth:
        checked = berth.verify(ref, keys)
    rows = [
        {"subject": subject, **dataclasses.asdict(record)}
        for subject, records in checked.records.items()
        for record in records
    ]
    out = Output(output)
    if out.json:
        out.result({"digest": checked.root, "valid": checked.valid, "signatures": rows})
    else:
        out.table(rows, ["subject", "kind", "verdict", "reason", "key_id"], empty="It carries no signatures.")
        out.note(f"{ref} ({checked.root}) is {'' if checked.valid else 'NOT '}signed by the given key.")
    return 0 if checked.valid else EXIT_ERROR
