"""`xumi key generate`: a key pair for signing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import credentials
from berth.client.keyfiles import write_pair
from berth.errors import InvalidInput
from berth.signing import keys


def generate(
    out: Annotated[Path, typer.Option("--out", help="Path without suffix: BASE.key and BASE.pub are written.")],
    algorithm: Annotated[str, typer.Option("--algorithm", help="ecdsa-p256 or ed25519.")] = "ecdsa-p256",
    password_env: Annotated[
        bool, typer.Option("--password-env", help="Encrypt the private key with BERTH_KEY_PASSWORD.")
    ] = False,
    password_prompt: Annotated[
        bool, typer.Option("--password-prompt", help="Ask for a password to encrypt the private key with.")
    ] = False,
    output: OutputOption = Format.text,
) -> None:
    """Make a key pair for signing.

    BASE.key is readable by you only; files that are there already are never overwritten. A signature counts once the
    project trusts BASE.pub.

    Example: xumi key generate --out release
    """
    password: str | None = None
    if password_prompt:
        password = typer.prompt("Password of the private key", hide_input=True, confirmation_prompt=True, err=True)
    elif password_env:
        secret = credentials.environment().key_password
        password = secret.get_secret_value() if secret else None
    if (password_prompt or password_env) and not password:
        raise InvalidInput("There is no password.", hint="Set BERTH_KEY_PASSWORD, or use --password-prompt.")
    private, public = keys.generate(algorithm, password.encode() if password else None)
    key_file, public_file = write_pair(out, private, public)
    key_id = keys.load_public(public).key_id
    printer = Output(output)
    printer.result(
        {"private_key": os.fspath(key_file), "public_key": os.fspath(public_file), "key_id": key_id},
        f"Private key: {key_file}\nPublic key:  {public_file}\nKey id:      {key_id}",
    )
    printer.step(f"berth key trust NAME --project PROJECT --key {public_file}")
