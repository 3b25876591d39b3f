"""Where did an upload break off? Sessions of large blobs at other registries, sealed, until they end."""
