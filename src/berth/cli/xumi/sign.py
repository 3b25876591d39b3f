"""`xumi sign`: a signature beside a pushed version, in the formats that stock verifiers read."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth, credentials
from berth.client.keyfiles import read_private
from berth.client.signing import FORMATS
from berth.errors import InvalidInput, Unsupported
from berth.signing.keys import PrivateKey


def sign(
    ref: Annotated[str, typer.Argument(help="project/model:version or @digest.")],
    key: Annotated[Path, typer.Option("--key", help="Private key, e.g. release.key.")],
    format: Annotated[
        str, typer.Option("--format", help="classic (cosign), bundle (Sigstore), or both with a comma.")
    ] = ",".join(FORMATS),
    annotation: Annotated[
        list[str] | None, typer.Option("--annotation", "-a", metavar="KEY=VALUE", help="Another signed fact.")
    ] = None,
    tlog: Annotated[bool, typer.Option("--tlog/--no-tlog", help="Upload to a transparency log.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Sign a pushed version: its index and each runnable image in it.

    A signature counts once the project trusts the key. An encrypted key is opened with BERTH_KEY_PASSWORD, or its
    password is asked for.

    Example: xumi sign acme/file-type:1.0.0 --key release.key
    """
    if tlog:
        raise Unsupported("Transparency logs are not supported.", hint="Leave --tlog out.")
    formats = _formats(format)
    facts = _annotations(annotation or [])
    private = open_key(key)
    out = Output(output)
    with Berth.from_settings() as berth:
        done = berth.sign(ref, private, formats=formats, annotations=facts or None)
    lines = [f"{'Signed' if s.added else 'Was signed already'}: {s.subject} ({s.format})" for s in done]
    lines.append(f"Key id: {private.public.key_id}")
    out.result({"key_id": private.public.key_id, "signatures": [dataclasses.asdict(s) for s in done]}, "\n".join(lines))
    out.step(f"xumi explain {ref}")


def open_key(file: Path) -> PrivateKey:
    """The private key in `file`; asks for the password of an encrypted one only at a terminal."""
    secret = credentials.environment().key_password
    if secret is not None:
        return read_private(file, secret.get_secret_value().encode())
    try:
        return read_private(file, None)
    except InvalidInput as error:
        if "encrypted" not in error.message or not sys.stdin.isatty():
            raise
    password = typer.prompt(f"Password of {file}", hide_input=True, err=True)
    return read_private(file, password.encode())


def _formats(text: str) -> list[str]:
    formats = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in formats if part not in FORMATS]
    if wrong or not formats:
        raise InvalidInput(f"{text!r} is not a signature format.", hint="Use classic, bundle, or classic,bundle.")
    return formats


def _annotations(pairs: list[str]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"{pair!r} is not KEY=VALUE.")
        facts[name] = value
    return facts
