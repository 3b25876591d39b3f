"""What is copied where: rules, their runs with the journal of each item, and where published versions live."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from berth.db.tables.metadata import metadata

sync_rules = Table(
    "sync_rules",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    # The project whose models are copied, by its name at the source.
    Column("project", Text, nullable=False),
    # Our own project on either side, whose maintainers may change the rule; null between two other registries.
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE")),
    # Names of registries; 'depot' is our own store.
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    # The filters and policies, as sync/rules.py writes them.
    Column("terms", JSONB, nullable=False, server_default=text("'{}'")),
    # Five-field cron in UTC; null = only when asked.
    Column("schedule", Text),
    Column("next_run_at", DateTime(timezone=True)),
    # A replica: what is admitted in the project is published to the target at once, and withdrawn from it.
    Column("on_admission", Boolean, nullable=False, server_default=text("false")),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # A push at the source, told by its webhook, starts a run.
    Column("on_event", Boolean, nullable=False, server_default=text("false")),
    Index("ix_sync_rules_on_event", "source", postgresql_where=text("on_event")),
    Index("ix_sync_rules_project", "project_id"),
    Index("ix_sync_rules_due", "next_run_at", postgresql_where=text("next_run_at is not null")),
)

sync_runs = Table(
    "sync_runs",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("rule_id", BigInteger, ForeignKey("sync_rules.id", ondelete="CASCADE")),
    # run | plan of a rule, import | import-plan of a registry: a plan writes nothing anywhere but here
    Column("kind", Text, nullable=False),
    # An import has no rule: the registry it looks through, the project it is confined to, and its filters.
    Column("registry", Text),
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="CASCADE")),
    Column("terms", JSONB, nullable=False, server_default=text("'{}'")),
    Column("state", Text, nullable=False, server_default=text("'queued'")),
    Column("planned", Boolean, nullable=False, server_default=text("false")),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("error", Text),
    Column("started_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    # A run that is carried out says so now and then; a silent one is taken up by another worker.
    Column("beat_at", DateTime(timezone=True)),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    CheckConstraint("kind in ('run','plan','import','import-plan')", name="kind"),
    CheckConstraint("(rule_id is null) <> (registry is null)", name="subject"),
    CheckConstraint("state in ('queued','running','succeeded','failed','cancelled')", name="state"),
    Index("ix_sync_runs_rule", "rule_id", "id"),
    # Two runs of one rule at once would send everything twice.
    Index(
        "uq_sync_runs_active",
        "rule_id",
        unique=True,
        postgresql_where=text("kind = 'run' and state in ('queued','running')"),
    ),
    Index(
        "uq_sync_runs_importing",
        "registry",
        unique=True,
        postgresql_where=text("kind = 'import' and state in ('queued','running')"),
    ),
)

# One line of a plan, and while it is carried out the journal that a new worker goes on from.
sync_items = Table(
    "sync_items",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("run_id", BigInteger, ForeignKey("sync_runs.id", ondelete="CASCADE"), nullable=False),
    Column("action", Text, nullable=False),
    Column("source_repository", Text, nullable=False),
    Column("target_repository", Text, nullable=False),
    Column("tag", Text, nullable=False),
    Column("digest", Text),
    Column("target_digest", Text),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'planned'")),
    # Bytes of blobs that were sent; what was mounted or there already is not counted.
    Column("bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("blobs", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
    Column("notes", JSONB, nullable=False, server_default=text("'[]'")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("action in ('copy','skip','conflict','prune','import')", name="action"),
    CheckConstraint("state in ('planned','running','done','failed','conflict','cancelled')", name="state"),
    Index("ix_sync_items_run", "run_id", "id"),
)

# What the newest plan of each rule found to differ, and since when; a copied item takes its row away.
sync_drift = Table(
    "sync_drift",
    metadata,
    Column("rule_id", BigInteger, ForeignKey("sync_rules.id", ondelete="CASCADE"), primary_key=True),
    Column("target_repository", Text(collation="C"), primary_key=True),
    Column("tag", Text(collation="C"), primary_key=True),
    Column("source_repository", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("digest", Text),
    Column("target_digest", Text),
    Column("error", Text),
    Column("since", DateTime(timezone=True), nullable=False),
    CheckConstraint("action in ('copy','conflict','prune')", name="action"),
)

# Evidence that a rule's target was seen to hold beside a version; believed for a day (sync/confirmed).
sync_confirmed = Table(
    "sync_confirmed",
    metadata,
    Column("rule_id", BigInteger, ForeignKey("sync_rules.id", ondelete="CASCADE"), primary_key=True),
    Column("repository", Text(collation="C"), primary_key=True),  # at the target, by our own name
    Column("digest", Text(collation="C"), primary_key=True),
    Column("evidence", ARRAY(Text), nullable=False),
    Column("confirmed_at", DateTime(timezone=True), nullable=False),
)

# Uploads of large blobs that broke off or are under way, so that whoever goes on need not send them anew.
sync_uploads = Table(
    "sync_uploads",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    # Whose upload it is: of a run, or on the way to a place. It goes with them.
    Column("run_id", BigInteger, ForeignKey("sync_runs.id", ondelete="CASCADE")),
    Column("placement_id", BigInteger, ForeignKey("placements.id", ondelete="CASCADE")),
    Column("repository", Text, nullable=False),  # at the target, by our own name
    Column("digest", Text, nullable=False),
    # The session's address at the target, sealed (db/sealing.py): it may be signed, and then lets anybody write.
    Column("session", LargeBinary, nullable=False),
    Column("offset_bytes", BigInteger, nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("(run_id is null) <> (placement_id is null)", name="owner"),
    UniqueConstraint("run_id", "repository", "digest", name="uq_sync_uploads_run"),
    UniqueConstraint("placement_id", "repository", "digest", name="uq_sync_uploads_placement"),
    Index("ix_sync_uploads_updated", "updated_at"),
)

# Where a published version lives besides the depot.
placements = Table(
    "placements",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("version_id", BigInteger, ForeignKey("versions.id", ondelete="CASCADE"), nullable=False),
    Column("registry", Text, nullable=False),
    Column("repository", Text, nullable=False),  # its name there
    # exposed = denied here, but still to be had there
    Column("state", Text, nullable=False, server_default=text("'pending'")),
    Column("error", Text),
    # It was there before us (an import). What we did not bring there we do not take away.
    Column("found", Boolean, nullable=False, server_default=text("false")),
    Column("bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    # How far the present or last try got, of what it found to do: the target itself knows what is whole there.
    Column("started_at", DateTime(timezone=True)),
    Column("blobs_done", Integer, nullable=False, server_default=text("0")),
    Column("blobs_total", Integer, nullable=False, server_default=text("0")),
    Column("bytes_done", BigInteger, nullable=False, server_default=text("0")),
    Column("bytes_total", BigInteger, nullable=False, server_default=text("0")),
    Column("next_try_at", DateTime(timezone=True)),
    # Somebody stopped it: it is not tried before somebody says so.
    Column("held", Boolean, nullable=False, server_default=text("false")),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("state in ('pending','published','failed','withdrawn','exposed')", name="state"),
    UniqueConstraint("version_id", "registry", "repository", name="uq_placements_place"),
    Index("ix_placements_place", "registry", "repository"),
    Index("ix_placements_unsettled", "at", postgresql_where=text("state in ('pending','failed','exposed')")),
)
