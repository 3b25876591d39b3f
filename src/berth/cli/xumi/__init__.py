"""The index of the program `xumi`: make, build, push, pull and review models. One line per command."""

from __future__ import annotations

from berth.cli.lazy import Branch, Leaf

_HERE = "berth.cli.xumi"

COMMANDS = Branch(
    "Make, build, push, pull and review machine-learning models.",
    {
        "init": Leaf(f"{_HERE}.init:init", "Start a new model in a folder."),
        "bump": Leaf(f"{_HERE}.bump:bump", "Write the next version into xumi.yaml."),
        "validate": Leaf(f"{_HERE}.validate:validate", "Check xumi.yaml and the code it names."),
        "lock": Leaf(f"{_HERE}.lock:lock", "Pin base image and packages of a folder in xumi.lock."),
        "fit": Leaf(f"{_HERE}.fit:fit", "Say whether a machine has what a model needs, or which models fit it."),
        "test": Leaf(f"{_HERE}.test:run_tests", "Start a model and call it with its samples."),
        "run": Leaf(f"{_HERE}.run:run", "Start a model and show its address; --detach leaves it running."),
        "ps": Leaf(f"{_HERE}.ps:ps", "List the models that run in the background."),
        "logs": Leaf(f"{_HERE}.ps:logs", "Print what a model in the background has written."),
        "stop": Leaf(f"{_HERE}.ps:stop", "End models in the background."),
        "invoke": Leaf(f"{_HERE}.invoke:invoke", "Call a model once."),
        "build": Leaf(f"{_HERE}.build:build", "Build a version into the local repository."),
        "ls": Leaf(f"{_HERE}.ls:ls", "List the versions in the local repository."),
        "show": Leaf(f"{_HERE}.show:show", "Show one local version."),
        "diff": Leaf(f"{_HERE}.diff:diff", "Show what changed between two versions, or since a version."),
        "rm": Leaf(f"{_HERE}.rm:rm", "Remove a version from the local repository."),
        "prune": Leaf(f"{_HERE}.rm:prune", "Free what no version of the local repository needs."),
        "login": Leaf(f"{_HERE}.login:login", "Store the address of a Berth service and a token for it."),
        "logout": Leaf(f"{_HERE}.login:logout", "Forget the stored token of a Berth service."),
        "push": Leaf(f"{_HERE}.push:push", "Push a built version to Berth."),
        "pull": Leaf(f"{_HERE}.pull:pull", "Pull an admitted version into a folder."),
        "sync": Leaf(f"{_HERE}.sync:sync", "Keep the local repository in step with Berth, once or as a daemon."),
        "where": Leaf(f"{_HERE}.where:where", "Print the address that runs or pulls a version."),
        "key": Branch(
            "Signing keys.",
            {"generate": Leaf(f"{_HERE}.key:generate", "Make a key pair for signing.")},
        ),
        "sign": Leaf(f"{_HERE}.sign:sign", "Sign a pushed version."),
        "verify": Leaf(f"{_HERE}.verify:verify", "Check the signatures of a version with a public key."),
        "approve": Leaf(f"{_HERE}.approve:approve", "Approve a version."),
        "reject": Leaf(f"{_HERE}.reject:reject", "Reject a version."),
        "revoke": Leaf(f"{_HERE}.revoke:revoke", "Take an approval back; the version is refused at once."),
        "explain": Leaf(f"{_HERE}.explain:explain", "Say whether a version may be pulled, and every reason why not."),
        "scan": Leaf(f"{_HERE}.scans:scan", "Scan a version again."),
        "scans": Leaf(f"{_HERE}.scans:scans", "Show which scans of a version are pending."),
        "evidence": Branch(
            "What is known about a version: reports, signatures, checks.",
            {
                "ls": Leaf(f"{_HERE}.evidence:ls", "List the evidence about a version."),
                "report": Leaf(f"{_HERE}.evidence:report", "Get one report in full."),
            },
        ),
    },
)
