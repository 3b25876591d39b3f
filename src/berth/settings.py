"""The only reader of the environment. Every option has a default that works on a laptop.

Names are `BERTH_<FIELD>` for the service and both programs; `XUMI_HOME` is the local repository of builds.
`tests/house` fails if an option here is missing from docs/reference/settings.md.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Options of the service (`berth up`, `serve`, `worker`, `migrate`)."""

    model_config = SettingsConfigDict(env_prefix="BERTH_", extra="ignore")

    data: Path = Field(Path("./.berth"), description="Data folder: embedded database, depot, admin.token.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port of API and gateway.")
    external_url: str | None = Field(
        None, description="URL that clients use when Berth stands behind a proxy; else taken from the request."
    )
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL 15 or newer, postgresql://…; without it the embedded server is used."
    )
    migration_database_url: SecretStr | None = Field(
        None, description="Same database as the role that owns the tables; default: BERTH_DATABASE_URL."
    )
    database_pool: int = Field(10, ge=1, description="Largest number of database connections per process.")
    secret_key_file: Path | None = Field(
        None,
        description="File with the key that seals stored credentials of registries, at least 32 random characters; "
        "default: DATA/secret.key, made when first needed. Servers that share a database need the same one.",
    )
    transfer_buffer_bytes: int = Field(
        96 * 1024 * 1024, ge=4 * 1024 * 1024, description="Memory budget of all blob transfers of one process."
    )
    transfer_threads: int = Field(8, ge=1, description="Threads that hash, read and write blobs.")
    manifest_max_bytes: int = Field(4 * 1024 * 1024, description="Largest manifest accepted.")
    upload_max_age_seconds: int = Field(7 * 86400, description="Unfinished uploads older than this are removed.")
    blob_lease_seconds: int = Field(24 * 3600, description="How long unreferenced content is kept from clean-up.")
    gc_every_seconds: int = Field(3600, description="How often unreferenced content is collected.")
    cache_bytes: int = Field(
        0,
        ge=0,
        description="Bound of the depot in bytes: beyond it, what was read longest ago and is safe at another registry "
        "leaves it; 0 keeps everything.",
    )
    trivy_path: str | None = Field(None, description="The trivy program; default: from the venv, then PATH.")
    trivy_db_repository: str | None = Field(
        None, description="OCI reference of the vulnerability database; default: Trivy's own public one."
    )
    trivy_db_username: str | None = Field(None, description="User for that repository.")
    trivy_db_password: SecretStr | None = Field(None, description="Password for that repository.")
    trivy_cache: Path | None = Field(None, description="Trivy's cache folder; default: DATA/trivy.")
    scan_timeout_seconds: int = Field(900, ge=1, description="A scan that takes longer is ended and counts as failed.")
    scan_memory_bytes: int = Field(4 * 1024**3, description="Address space of a weight-scan child process.")
    worker_concurrency: int = Field(2, ge=1, description="Jobs that one worker runs at once.")
    log_format: str = Field("text", pattern="^(text|json)$", description="Log lines as text or JSON.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="Lowest level that is logged.")
    sentry_dsn: SecretStr | None = Field(None, description="Where errors are reported; nowhere without it.")

    @cached_property
    def data_dir(self) -> Path:
        return self.data.resolve()

    def child_environment(self) -> dict[str, str]:
        """Environment for a child process that is to read these very settings, whatever ours says."""
        inherited = {key: value for key, value in os.environ.items() if not key.upper().startswith("BERTH_")}
        for name in type(self).model_fields:
            value = self.data_dir if name == "data" else getattr(self, name)
            if value is not None:
                text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                inherited[f"BERTH_{name.upper()}"] = text
        return inherited


class ClientSettings(BaseSettings):
    """Options of the client side of both programs and of the SDK."""

    model_config = SettingsConfigDict(env_prefix="BERTH_", extra="ignore", populate_by_name=True)

    url: str = Field("http://127.0.0.1:8080", description="Address of the Berth service.")
    token: SecretStr | None = Field(None, description="Token to act with.")
    user: str | None = Field(None, description="Owner of the token; only needed for Basic authentication.")
    home: Path = Field(
        Path.home() / ".xumi",
        # No second choice "home" here: it would match the variable HOME.
        validation_alias="XUMI_HOME",
        description="Local repository of builds.",
    )
    key_password: SecretStr | None = Field(None, description="Password of an encrypted signing key.")


def environment_of_installers() -> dict[str, str]:
    """What pip and uv are told by the environment, and where they look for the rest; no options of ours."""
    prefixes, names = ("PIP_", "UV_", "XDG_CONFIG_"), ("HOME",)
    return {k: v for k, v in os.environ.items() if k.startswith(prefixes) or k in names}
