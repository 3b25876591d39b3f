"""What models exist, in what state? Intake of manifests, versions, aliases and how a name finds its digest."""
