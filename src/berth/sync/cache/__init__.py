"""The depot as a cache of other registries: fetch what is not here, keep what is read, let go of the rest."""
