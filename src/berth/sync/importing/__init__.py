"""What already lives in a registry becomes known here, and its bytes stay where they are."""
