"""What is in a multipart/form-data body? (RFC 7578.) Works on the bytes of the whole body, which has a size limit."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Mapping

from xumi.contract import MEDIA
from xumi.problems import InvalidValue
from xumi.values import File

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*(name|filename)="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


def read_form(body: bytes, content_type: str, fields: List[Mapping[str, Any]]) -> Dict[str, Any]:
    """The parts by name, as values that `contract.read_inputs` takes: files as File, text as text, the rest from JSON.

    Raises:
        InvalidValue: not a form, a part without a name, a name twice, or a part that is not JSON where it must be.
    """
    found = _BOUNDARY.search(content_type)
    if not found:
        raise InvalidValue("the Content-Type names no boundary")
    delimiter = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(b"\r\n" + delimiter)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise InvalidValue("the form is cut off or its boundary is missing")
    kinds = {field["name"]: field["type"] for field in fields}
    values: Dict[str, Any] = {}
    for piece in pieces[1:-1]:
        head, gap, content = piece.lstrip(b" \t").partition(b"\r\n\r\n")
        if not gap:
            raise InvalidValue("a part of the form has no headers")
        headers = _headers(head)
        found_parameters = _PARAMETER.findall(headers.get("content-disposition", ""))
        disposition = {key.lower(): re.sub(r"\\(.)", r"\1", value) for key, value in found_parameters}
        name = disposition.get("name", "")
        if not name:
            raise InvalidValue("a part of the form has no name")
        if name in values:
            raise InvalidValue("is given twice", name)
        values[name] = _value(kinds.get(name, "text"), content, headers, disposition, name)
    return values


def _value(kind: str, content: bytes, headers: Dict[str, str], disposition: Dict[str, str], name: str) -> Any:
    if kind in MEDIA:
        return File(content, headers.get("content-type", "application/octet-stream"), disposition.get("filename", ""))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidValue("is not UTF-8 text", name) from None
    if kind in ("text", "enum"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidValue(f"is not JSON, which a part of type {kind} must be", name) from None


def _headers(head: bytes) -> Dict[str, str]:
    found = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        key, colon, value = line.partition(":")
        if colon:
            found[key.strip().lower()] = value.strip()
    return found
