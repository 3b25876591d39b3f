"""`xumi login`, `xumi logout`: which service is used, and with which token."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from berth.cli.output import Format, Output, OutputOption
from berth.client import Berth, credentials
from berth.client.credentials import Login, normal_url
from berth.errors import InvalidInput


def login(
    url: Annotated[str, typer.Argument(help="Address of the service, e.g. https://berth.example.")],
    user: Annotated[str | None, typer.Option("--user", "-u", help="Owner of the token.")] = None,
    token_stdin: Annotated[bool, typer.Option("--token-stdin", help="Read the token from standard input.")] = False,
    output: OutputOption = Format.text,
) -> None:
    """Store the address of a Berth service and a token for it.

    The token is taken from BERTH_TOKEN, from standard input with --token-stdin, or asked for. It is tried before it
    is stored, in XUMI_HOME/credentials, readable by you only. The environment wins over what is stored.

    Example: xumi login https://berth.example --token-stdin < token.txt
    """
    out = Output(output)
    settings = credentials.environment()
    address = normal_url(url)
    if token_stdin:
        token = sys.stdin.readline().strip()
    elif settings.token is not None:
        token = settings.token.get_secret_value()
    else:
        token = typer.prompt("Token", hide_input=True, err=True).strip()
    if not token:
        raise InvalidInput("The token is empty.", hint="Give it with BERTH_TOKEN or --token-stdin.")
    with Berth(address, token) as berth:
        who = berth.whoami()
    name = user or who.get("name")
    file = credentials.store(settings.home, Login(address, token, name if isinstance(name, str) else None))
    out.result(
        {"url": address, "user": name, "file": str(file)}, f"Logged in to {address} as {name}. Stored in {file}."
    )


def logout(
    url: Annotated[str | None, typer.Argument(help="Address of the service; default: the one in use.")] = None,
    output: OutputOption = Format.text,
) -> None:
    """Forget the stored token of a Berth service. The token stays valid: revoke it with `berth token revoke`.

    Example: xumi logout https://berth.example
    """
    settings = credentials.environment()
    address = normal_url(url) if url else credentials.login_for(settings).url
    known = credentials.forget(settings.home, address)
    Output(output).result(
        {"url": address, "removed": known}, f"Forgot {address}." if known else f"No token was stored for {address}."
    )
