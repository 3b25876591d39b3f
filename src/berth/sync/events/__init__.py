"""What do other registries tell us, and what follows? Recorded once, then taken up by a job."""
