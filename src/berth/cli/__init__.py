"""How does a person type it? One command per file, two indexes (`berth`, `xumi`), all through `client` and `authoring`.

`lazy` loads a command's file only when it runs, `output` is the one way to print, `main` the one place that turns
errors into messages and exit codes.
"""
