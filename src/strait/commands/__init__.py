"""The verbs of the command line, a file each."""

VERBS = (
    "train",
    "encode",
    "generate",
    "edit",
    "evaluate",
    "table",
    "sweep",
    "figure",
    "describe",
    "doctor",
    "export",
    "push",
    "bench",
    "web",
    "serve",
    "study",
    "completion",
)
