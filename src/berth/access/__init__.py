"""Who may do what? Roles and the decision (pure), tokens, projects, members and the audit trail (design §2, §6)."""
