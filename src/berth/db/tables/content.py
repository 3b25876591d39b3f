"""What bytes exist and who refers to whom: blobs, manifests, their links to repositories, uploads, tags."""

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
    LargeBinary,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from berth.db.tables.metadata import metadata

# A blob of our repositories. `location` is the database's fact, never derived from the digest at read time; null: its
# bytes are not in the depot, but at the registries where versions that hold it are placed.
blobs = Table(
    "blobs",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("location", Text),
    Column("state", Text, nullable=False, server_default=text("'live'")),
    # Nothing is collected before this instant: HEAD by a pusher, mount and upload renew it.
    Column("lease_until", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # When it was last read, renewed at most once an hour: what was not read for longest leaves the depot first.
    Column("read_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("state in ('live','deleting')", name="state"),
    Index("ix_blobs_lease", "lease_until"),
    Index("ix_blobs_location", "location"),
    Index("ix_blobs_read", "read_at", postgresql_where=text("location is not null")),
)

# Blobs that are being fetched from a registry, and how far. A holder that falls silent loses the fetch to the next.
fetches = Table(
    "fetches",
    metadata,
    Column("digest", Text, primary_key=True),  # and the project, of a fetch that may ask only its registries
    Column("holder", Text, nullable=False),
    Column("location", Text, nullable=False),  # of the growing upload in the depot's store
    Column("received", BigInteger, nullable=False, server_default=text("0")),
    Column("until", DateTime(timezone=True), nullable=False),
)

repositories = Table(
    "repositories",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("project_id", BigInteger, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False, unique=True),  # 'project/name'
    Column("kind", Text),  # null until the first tagged manifest, then 'model' | 'checkpoint'
    # The editable overlay (design §6): description, labels, links. No policy reads it.
    Column("overlay", JSONB, nullable=False, server_default=text("'{}'")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("kind in ('model','checkpoint')", name="kind"),
    Index("ix_repositories_project", "project_id", "name"),
)

# Which blobs a repository may name: by upload or by mount. A blob elsewhere in the depot is not visible. Of what an
# import found, a registry only says that it is there: until its bytes have come from a place of this project it is not
# proven, and the depot's bytes are not given for it (decision 26).
repository_blobs = Table(
    "repository_blobs",
    metadata,
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", Text, ForeignKey("blobs.digest"), primary_key=True),
    Column("linked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("proven", Boolean, nullable=False, server_default=text("true")),
    Index("ix_repository_blobs_digest", "digest"),
)

manifests = Table(
    "manifests",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("media_type", Text, nullable=False),
    Column("artifact_type", Text),  # as the referrers API shows it
    Column("body", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("annotations", JSONB, nullable=False, server_default=text("'{}'")),
    Column("subject", Text),
    # What the gate must ask of it (catalog/record.py): index | image | checkpoint | attestation | evidence | unknown
    Column("role", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("role in ('index','image','checkpoint','attestation','evidence','unknown')", name="role"),
)

repository_manifests = Table(
    "repository_manifests",
    metadata,
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", Text, ForeignKey("manifests.digest"), primary_key=True),
    # Set when this manifest is evidence about another one (a referrer or a `.sig`/`.att` tag) and passed the
    # closed list of design §6; such a manifest rides on its subject's verdict.
    Column("evidence_for", Text),
    Column("subject", Text),
    Column("pushed_by", Text, nullable=False),
    Column("pushed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_repository_manifests_subject", "repository_id", "subject", "digest"),
    Index("ix_repository_manifests_evidence_for", "repository_id", "evidence_for"),
    Index("ix_repository_manifests_digest", "digest"),
)

# The transitive closure of each manifest that was PUT in a repository, itself included.
closure = Table(
    "closure",
    metadata,
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("root", Text, primary_key=True),
    Column("is_manifest", Boolean, nullable=False),
    Index("ix_closure_root", "repository_id", "root"),
    Index("ix_closure_digest", "digest"),
)

tags = Table(
    "tags",
    metadata,
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
    # The C collation gives the ASCII order that the distribution spec asks tag lists to have.
    Column("name", Text(collation="C"), primary_key=True),
    Column("digest", Text, ForeignKey("manifests.digest"), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_tags_digest", "repository_id", "digest"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("repository_id", BigInteger, ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False),
    Column("location", Text, nullable=False),
    Column("algorithm", Text, nullable=False, server_default=text("'sha256'")),
    # Bytes acknowledged to the client (and fsynced) so far.
    Column("acknowledged", BigInteger, nullable=False, server_default=text("0")),
    # Fencing: each writer takes the next number; an older number can no longer acknowledge or commit.
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    Column("started_by", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_uploads_updated", "updated_at"),
)
