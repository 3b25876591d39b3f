"""How do we talk to any OCI registry over HTTP? The one client (OCI distribution-spec 1.1) of programs and service.

`RegistryClient` (client) authenticates, retries and follows redirects behind guarded addresses; the questions are
asked by the modules named after them: `blobs`, `uploads`, `manifests`, `tags`, `referrers`. `transfer` copies trees.
"""
