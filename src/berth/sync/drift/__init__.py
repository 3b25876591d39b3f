"""Where do two places differ that should not, and since when? Kept up to date by every plan and every copied item."""
