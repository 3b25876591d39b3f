"""How does the gateway say no? BerthError → distribution-spec errors, with the gate's reasons where clients show them.

HEAD answers have no body, so the reasons also travel in `Warning: 299` and `Berth-Reason` headers (design §6).
"""

from __future__ import annotations

from typing import Any

from berth.errors import BerthError, Denied, RangeInvalid, StorageFull, TooManyRequests, Unauthenticated, Unavailable
from berth.oci import wire_errors
from berth.oci.wire_errors import WireError
from berth.server.gateway.exchange import Exchange

# Header values stay well below the limits of common proxies.
MAX_HEADER = 1500


async def render_error(exchange: Exchange, error: BerthError) -> None:
    """Answer with `error` in the form of the distribution spec ("Error Codes")."""
    headers: dict[str, str] = {"Content-Type": "application/json"}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = challenge(exchange, error)
    if isinstance(error, RangeInvalid):
        headers.update({k: str(v) for k, v in error.detail.get("headers", {}).items()})
    if isinstance(error, TooManyRequests | Unavailable):
        headers["Retry-After"] = str(error.detail.get("retry_after", 1))
    if isinstance(error, StorageFull):
        headers["Connection"] = "close"
    if isinstance(error, Denied):
        reasons = error.reasons
        headers["Berth-Reason"] = header_text(", ".join(str(r["code"]) for r in reasons))
        headers["Warning"] = f'299 - "{header_text("; ".join(str(r["message"]) for r in reasons))}"'
    detail: dict[str, Any] = {k: v for k, v in error.detail.items() if k not in ("headers", "scope")}
    if error.hint:
        detail["hint"] = error.hint
    message = str(error)
    if isinstance(error, Denied) and error.reasons:
        message = f"{message} " + " ".join(f"[{r['code']}] {r['message']}" for r in error.reasons)
    body = wire_errors.render([WireError(error.oci_code, message, detail or None)])
    await exchange.answer(error.status, headers, body)


def challenge(exchange: Exchange, error: Unauthenticated) -> str:
    """The Bearer challenge that leads docker, podman, skopeo and oras to `/v2/token`."""
    parts = [f'realm="{exchange.base_url}/v2/token"', 'service="berth"']
    scope = error.detail.get("scope")
    if scope:
        parts.append(f'scope="{scope}"')
    if error.detail.get("error"):
        parts.append(f'error="{error.detail["error"]}"')
    return "Bearer " + ",".join(parts)


def header_text(text: str) -> str:
    """Text that is safe inside a quoted header value: one line, printable ASCII, no quotes."""
    clean = "".join(c if " " <= c <= "~" and c not in '"\\' else " " for c in text)
    return clean if len(clean) <= MAX_HEADER else clean[: MAX_HEADER - 4] + " ..."
