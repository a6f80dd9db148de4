"""The verbs of the command line, a file each."""

VERBS = (
    "train",
    "encode",
    "generate",
    "edit",
    "evaluate",
    "table",
    "sweep",
    "describe",
    "export",
    "push",
    "bench",
    "web",
    "serve",
    "study",
    "completion",
)
