"""What is no longer needed? Unreferenced content and stale uploads (rules about unused models come later)."""
