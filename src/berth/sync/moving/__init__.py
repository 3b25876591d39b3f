"""Versions that people move by hand: as a file to where no network reaches, and from project to project."""
