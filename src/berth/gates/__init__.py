"""May this version leave? Policies, evidence and the one pure function that turns them into a verdict (design §6)."""
