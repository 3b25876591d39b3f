"""Which evidence was a target seen to hold? Believed for a day, so that runs with nothing to do ask for little (0028)."""
