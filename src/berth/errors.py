"""The one error family. Every door (HTTP API, OCI gateway, CLI, job runner) renders it once.

BerthError                     code, HTTP status, message, hint (the next step), detail
├── InvalidInput           400  what the caller sent is malformed
│   ├── NameInvalid             a project, model, repository or tag name breaks the rule
│   ├── VersionInvalid          not a semantic version; the hint names the one to use
│   ├── DigestInvalid           malformed digest, or content that does not match it
│   ├── SizeInvalid             a body that is shorter or longer than announced
│   ├── ManifestInvalid         a manifest that cannot be accepted
│   ├── ArchiveInvalid          a file of versions that is damaged, cut off or not of the form that exports write
│   ├── BlobUnknownToManifest   a manifest names content this repository does not hold (404)
│   ├── ManifestFileInvalid     `xumi.yaml` is wrong: line, column, what to write instead (422)
│   └── PaginationInvalid
├── Unauthenticated        401
├── Forbidden              403
│   └── Denied                  the gate refuses: carries the verdict's reasons
├── NotFound               404
│   ├── NameUnknown · ManifestUnknown · BlobUnknown · UploadUnknown
├── Unsupported            405
├── Conflict               409
│   └── VersionTaken            the version number is burnt with other bytes
├── TooLarge               413
├── RangeInvalid           416
├── TooManyRequests        429
├── StorageFull            507
├── Unavailable            503  a part we need (database, scanner, registry) is not there now
├── RemoteError            502  another registry or service answered in a way we cannot use
│   └── RemoteAuthError         … it refused our credentials
├── IntegrityError         502  bytes read somewhere do not match their digest
└── SetupError             500  Berth itself is not set up right (settings, data folder, missing program)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class BerthError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: one sentence saying what is wrong, with the offending value.
        hint: the next step for the person who sees it, or None.
        detail: machine-readable extra facts (JSON types only).
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    # The code of the OCI distribution spec ("Error Codes") that the gateway answers with.
    oci_code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, *, hint: str | None = None, detail: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail: dict[str, Any] = dict(detail or {})

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InvalidInput(BerthError):
    code = "invalid_input"
    status = 400
    oci_code = "UNSUPPORTED"


class NameInvalid(InvalidInput):
    code = "name_invalid"
    oci_code = "NAME_INVALID"


class VersionInvalid(InvalidInput):
    code = "version_invalid"
    oci_code = "MANIFEST_INVALID"


class DigestInvalid(InvalidInput):
    code = "digest_invalid"
    oci_code = "DIGEST_INVALID"


class SizeInvalid(InvalidInput):
    code = "size_invalid"
    oci_code = "SIZE_INVALID"


class ManifestInvalid(InvalidInput):
    code = "manifest_invalid"
    oci_code = "MANIFEST_INVALID"


class ArchiveInvalid(InvalidInput):
    code = "archive_invalid"


class BlobUnknownToManifest(InvalidInput):
    code = "manifest_blob_unknown"
    status = 404
    oci_code = "MANIFEST_BLOB_UNKNOWN"


class ManifestFileInvalid(InvalidInput):
    code = "manifest_file_invalid"
    status = 422


class PaginationInvalid(InvalidInput):
    code = "pagination_invalid"
    oci_code = "PAGINATION_NUMBER_INVALID"


class Unauthenticated(BerthError):
    code = "unauthenticated"
    status = 401
    oci_code = "UNAUTHORIZED"


class Forbidden(BerthError):
    code = "forbidden"
    status = 403
    oci_code = "DENIED"


class Denied(Forbidden):
    """The gate refuses. `reasons` is a sequence of {"code", "message"} mappings, worst first."""

    code = "denied"

    def __init__(
        self, message: str, *, reasons: Sequence[Mapping[str, Any]], hint: str | None = None, digest: str | None = None
    ) -> None:
        super().__init__(message, hint=hint, detail={"reasons": [dict(r) for r in reasons], "digest": digest})
        self.reasons = [dict(r) for r in reasons]


class NotFound(BerthError):
    code = "not_found"
    status = 404
    oci_code = "NAME_UNKNOWN"


class NameUnknown(NotFound):
    code = "name_unknown"
    oci_code = "NAME_UNKNOWN"


class ManifestUnknown(NotFound):
    code = "manifest_unknown"
    oci_code = "MANIFEST_UNKNOWN"


class BlobUnknown(NotFound):
    code = "blob_unknown"
    oci_code = "BLOB_UNKNOWN"


class UploadUnknown(NotFound):
    code = "upload_unknown"
    oci_code = "BLOB_UPLOAD_UNKNOWN"


class Unsupported(BerthError):
    code = "unsupported"
    status = 405
    oci_code = "UNSUPPORTED"


class Conflict(BerthError):
    code = "conflict"
    status = 409
    oci_code = "DENIED"


class VersionTaken(Conflict):
    code = "version_taken"
    oci_code = "TAG_IMMUTABLE"


class TooLarge(BerthError):
    code = "too_large"
    status = 413
    oci_code = "SIZE_INVALID"


class RangeInvalid(BerthError):
    code = "range_invalid"
    status = 416
    oci_code = "BLOB_UPLOAD_INVALID"


class TooManyRequests(BerthError):
    code = "too_many_requests"
    status = 429
    oci_code = "TOOMANYREQUESTS"


class StorageFull(BerthError):
    code = "storage_full"
    status = 507
    oci_code = "BLOB_UPLOAD_INVALID"


class Unavailable(BerthError):
    code = "unavailable"
    status = 503


class RemoteError(BerthError):
    code = "remote_error"
    status = 502


class RemoteAuthError(RemoteError):
    code = "remote_auth_error"


class IntegrityError(BerthError):
    code = "integrity_error"
    status = 502
    oci_code = "DIGEST_INVALID"


class SetupError(BerthError):
    code = "setup_error"
