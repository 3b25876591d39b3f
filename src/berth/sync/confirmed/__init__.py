"""Which evidence was a target seen to hold? Believed for a day, so that runs in step ask for little (0028)."""
