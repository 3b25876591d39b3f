"""The index of the program `berth`: run and administer the service. One line per command."""

from __future__ import annotations

from berth.cli.lazy import Branch, Leaf

_HERE = "berth.cli.berth"

COMMANDS = Branch(
    "Run and administer a Berth model registry.",
    {
        "up": Leaf(f"{_HERE}.up:up", "Start everything on this machine: database, server, worker."),
        "serve": Leaf(f"{_HERE}.serve:serve", "Start the server: API, registry and web pages."),
        "worker": Leaf(f"{_HERE}.worker:worker", "Start a worker that scans and cleans up."),
        "migrate": Leaf(f"{_HERE}.migrate:migrate", "Bring the database's schema up to date."),
        "project": Branch(
            "Projects: who shares models and under which policy.",
            {
                "create": Leaf(f"{_HERE}.project:create", "Create a project."),
                "ls": Leaf(f"{_HERE}.project:ls", "List the projects you can see."),
                "show": Leaf(f"{_HERE}.project:show", "Show one project."),
                "set": Leaf(f"{_HERE}.project:set_", "Change a project's policy or description."),
                "rm": Leaf(f"{_HERE}.project:rm", "Remove an empty project."),
            },
        ),
        "member": Branch(
            "Who may do what in a project.",
            {
                "set": Leaf(f"{_HERE}.member:set_", "Give a user a role in a project."),
                "ls": Leaf(f"{_HERE}.member:ls", "List a project's members."),
                "rm": Leaf(f"{_HERE}.member:rm", "Take a user's role in a project away."),
            },
        ),
        "user": Branch(
            "Users, robots and other principals.",
            {
                "add": Leaf(f"{_HERE}.user:add", "Add a user or a robot."),
                "ls": Leaf(f"{_HERE}.user:ls", "List the users."),
                "disable": Leaf(f"{_HERE}.user:disable", "Disable a user; its tokens stop working at once."),
                "enable": Leaf(f"{_HERE}.user:enable", "Let a disabled user in again."),
            },
        ),
        "token": Branch(
            "Access tokens.",
            {
                "create": Leaf(f"{_HERE}.token:create", "Create a token; it is shown once."),
                "ls": Leaf(f"{_HERE}.token:ls", "List tokens."),
                "revoke": Leaf(f"{_HERE}.token:revoke", "Revoke a token at once."),
            },
        ),
        "key": Branch(
            "Keys whose signatures a project trusts.",
            {
                "trust": Leaf(f"{_HERE}.key:trust", "Trust a public key in a project."),
                "ls": Leaf(f"{_HERE}.key:ls", "List the keys a project trusts."),
                "untrust": Leaf(f"{_HERE}.key:untrust", "Stop trusting a key; its signatures are void at once."),
            },
        ),
        "alias": Branch(
            "Movable names of versions, such as production.",
            {
                "set": Leaf(f"{_HERE}.alias:set_", "Point an alias at a version."),
                "ls": Leaf(f"{_HERE}.alias:ls", "List a model's aliases."),
                "rm": Leaf(f"{_HERE}.alias:rm", "Remove an alias."),
                "history": Leaf(f"{_HERE}.alias:history", "Show where an alias pointed, and when."),
                "rollback": Leaf(f"{_HERE}.alias:rollback", "Point an alias at the version before."),
            },
        ),
        "version": Branch(
            "Versions on the service.",
            {
                "ls": Leaf(f"{_HERE}.version:ls", "List a model's versions."),
                "show": Leaf(f"{_HERE}.version:show", "Show one version."),
                "rm": Leaf(f"{_HERE}.version:rm", "Delete a version; its number stays taken."),
                "deprecate": Leaf(f"{_HERE}.version:deprecate", "Mark a version as deprecated."),
            },
        ),
        "registry": Branch(
            "Other registries that models are published to and taken from.",
            {
                "kinds": Leaf(f"{_HERE}.registry:kinds", "List the kinds of registries and their options."),
                "add": Leaf(f"{_HERE}.registry:add", "Make a registry known."),
                "set": Leaf(f"{_HERE}.registry:set_", "Change a registry's address, password or options."),
                "ls": Leaf(f"{_HERE}.registry:ls", "List the known registries."),
                "show": Leaf(f"{_HERE}.registry:show", "Show one registry and what it can do."),
                "rm": Leaf(f"{_HERE}.registry:rm", "Forget a registry; what lives there stays there."),
                "probe": Leaf(f"{_HERE}.registry:probe", "Ask a registry what it can do."),
                "check": Leaf(f"{_HERE}.registry_care:check", "Say whether a version would fit there."),
                "health": Leaf(f"{_HERE}.registry_care:health", "Ask a registry how it is."),
                "usage": Leaf(f"{_HERE}.registry_care:usage", "Show how full the place of a project is there."),
                "artifact": Leaf(f"{_HERE}.registry_care:artifact", "Show what a registry knows of a version."),
                "scan": Leaf(f"{_HERE}.registry_care:scan", "Have a registry scan a version itself."),
                "report": Leaf(f"{_HERE}.registry_care:report", "Show what its own scan found."),
                "gc": Leaf(f"{_HERE}.registry_care:gc", "Start a registry's own clean-up; dry unless told."),
                "project": Branch(
                    "A project's place at a registry (Harbor).",
                    {
                        "show": Leaf(f"{_HERE}.registry_projects:project_show", "Show what it is like."),
                        "set": Leaf(f"{_HERE}.registry_projects:project_set", "Make it, or bring it in line."),
                    },
                ),
                "robot": Branch(
                    "Robots of a project at a registry (Harbor), with the least rights.",
                    {
                        "ls": Leaf(f"{_HERE}.registry_projects:robot_ls", "List them."),
                        "add": Leaf(f"{_HERE}.registry_projects:robot_add", "Add one; its secret is shown once."),
                        "renew": Leaf(f"{_HERE}.registry_projects:robot_renew", "Give one another secret."),
                        "rm": Leaf(f"{_HERE}.registry_projects:robot_rm", "Remove one."),
                    },
                ),
                "protect": Leaf(f"{_HERE}.registry_projects:protect", "Have tags neither moved nor removed there."),
                "unprotect": Leaf(f"{_HERE}.registry_projects:unprotect", "Let tags be moved and removed again."),
                "retention": Branch(
                    "What is kept at a registry, and what goes.",
                    {
                        "show": Leaf(f"{_HERE}.registry_projects:retention_show", "Show what is kept."),
                        "set": Leaf(f"{_HERE}.registry_projects:retention_set", "Set how many versions are kept."),
                        "run": Leaf(f"{_HERE}.registry_projects:retention_run", "Delete the others; dry unless told."),
                    },
                ),
                "hook": Leaf(f"{_HERE}.registry_events:hook", "Let a registry tell us of pushes and deletions."),
                "unhook": Leaf(f"{_HERE}.registry_events:unhook", "Take no more deliveries of a registry."),
                "events": Leaf(f"{_HERE}.registry_events:events", "List what a registry told us."),
                "import": Leaf(f"{_HERE}.registry:import_", "Catalogue what already lives in a registry."),
            },
        ),
        "sync": Branch(
            "Copying between registries: by rule, by schedule, or at once.",
            {
                "rule": Branch(
                    "Rules: what is copied from where to where.",
                    {
                        "add": Leaf(f"{_HERE}.sync:rule_add", "Add a rule."),
                        "ls": Leaf(f"{_HERE}.sync:rule_ls", "List the rules you may see."),
                        "show": Leaf(f"{_HERE}.sync:rule_show", "Show one rule."),
                        "enable": Leaf(f"{_HERE}.sync:rule_enable", "Have a rule follow its schedule again."),
                        "disable": Leaf(f"{_HERE}.sync:rule_disable", "Keep a rule, but leave its schedule alone."),
                        "rm": Leaf(f"{_HERE}.sync:rule_rm", "Remove a rule; what it copied stays."),
                    },
                ),
                "plan": Leaf(f"{_HERE}.sync:plan", "Show what a rule would do, and where its places differ."),
                "run": Leaf(f"{_HERE}.sync:run", "Carry out a rule now."),
                "drift": Leaf(f"{_HERE}.drift:drift", "Show what differs per model and registry, and since when."),
                "status": Leaf(f"{_HERE}.sync:status", "Show the runs of a rule, or one run with its items."),
                "cancel": Leaf(f"{_HERE}.sync:cancel", "Stop a run."),
                "hold": Leaf(f"{_HERE}.sync:hold", "Stop publishing a version to its home and replicas."),
                "release": Leaf(f"{_HERE}.sync:release", "Go on publishing a version that was held."),
            },
        ),
        "promote": Leaf(f"{_HERE}.promote:promote", "Copy versions with their signatures to another project."),
        "export": Leaf(f"{_HERE}.export:export", "Write versions with their evidence into one file."),
        "import": Leaf(f"{_HERE}.import_:import_", "Bring in the versions of such a file."),
        "audit": Branch(
            "The audit log.",
            {"ls": Leaf(f"{_HERE}.audit:ls", "List who did what, and what was refused.")},
        ),
    },
)
