"""What is copied where? The depot seen as a registry, and (with more registries) publishing and rules."""
