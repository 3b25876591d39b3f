"""What does the environment say? The only file of the runtime that reads it.

XUMI_MANIFEST       manifest as JSON            /opt/xumi/manifest.json
XUMI_CODE           folder of the model's code  /opt/model
XUMI_HOST           address to listen on        0.0.0.0
XUMI_PORT           port; 0 takes a free one    the manifest's runtime.port
XUMI_SOCKET         Unix socket to listen on instead of a port; reachable without any network
XUMI_CONCURRENCY    calls of predict() at once  the manifest's runtime.concurrency
XUMI_MAX_BODY       largest request in bytes    67108864
XUMI_WEIGHTS_DIR    weights lie in DIR/<checkpoint> instead of at the mount paths
XUMI_WEIGHTS_URL    where missing weights are fetched, as URL/<digest>
XUMI_WEIGHTS_TOKEN  bearer token for that
XUMI_WEIGHTS_VERIFY 1 checks the digest of weights that are already there, too
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, Mapping, Optional

from xumi.problems import StartFailed

DEFAULT_MAX_BODY = 64 * 1024 * 1024


class Settings:
    """The runtime's settings; `environ` is the process environment."""

    def __init__(self, environ: Optional[Dict[str, str]] = None) -> None:
        env = dict(os.environ) if environ is None else environ
        self.manifest = Path(env.get("XUMI_MANIFEST") or "/opt/xumi/manifest.json")
        self.code = Path(env.get("XUMI_CODE") or "/opt/model")
        self.host = env.get("XUMI_HOST") or "0.0.0.0"  # noqa: S104 - a container serves its network
        self.port = _number(env, "XUMI_PORT")
        self.socket: Optional[Path] = Path(env["XUMI_SOCKET"]) if env.get("XUMI_SOCKET") else None
        self.concurrency = _number(env, "XUMI_CONCURRENCY")
        self.max_body = _number(env, "XUMI_MAX_BODY") or DEFAULT_MAX_BODY
        directory = env.get("XUMI_WEIGHTS_DIR")
        self.weights_dir: Optional[Path] = Path(directory) if directory else None
        self.weights_url = (env.get("XUMI_WEIGHTS_URL") or "").rstrip("/")
        self.weights_token = env.get("XUMI_WEIGHTS_TOKEN") or ""
        self.weights_verify = env.get("XUMI_WEIGHTS_VERIFY") == "1"


def child_environment(own: Mapping[str, str], *, search: str) -> Dict[str, str]:
    """The environment in which a model is started on this machine without a container.

    Args:
        own: variables of the model and of the runtime; they win.
        search: put before the PYTHONPATH that is there.
    Returns:
        This process's variables without those of Berth and of the runtime, so that no token of ours reaches the model.
    """
    found = {k: v for k, v in os.environ.items() if not k.upper().startswith(("BERTH_", "XUMI_"))}
    found["PYTHONPATH"] = os.pathsep.join(part for part in (search, found.get("PYTHONPATH", "")) if part)
    return {**found, **own}


def _number(env: Dict[str, str], name: str) -> Optional[int]:
    text = env.get(name)
    if not text:
        return None
    if not text.isdigit():
        raise StartFailed(f"{name} must be a whole number, not {text!r}.", 2)
    return int(text)
