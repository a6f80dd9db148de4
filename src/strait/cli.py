"""The command line: each verb is a file of `commands`. torch is not imported before a verb has been parsed."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from types import ModuleType

from strait import __version__
from strait.commands import VERBS
from strait.commands.arguments import STOPPED_BY_SIGNAL
from strait.runtime.process import keep_writing, lend_home, wait_without_spinning

_OUT_OF_MEMORY = (
    "not enough memory",
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "Storage size calculation overflowed",
    "cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)

_FREE_SPACE = "free some space, then rerun the command"
_ANOTHER_PLACE = "choose another place, or give yourself the right to this one"
_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "raise the limit of the size of files (ulimit -f), then rerun the command",
    errno.EROFS: "choose another place",
    errno.EACCES: _ANOTHER_PLACE,
    errno.EPERM: _ANOTHER_PLACE,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit status. User errors are one line on standard error.

    Args:
        arguments: the verb and its options; by default those of the command line, for which the process is set up.
    """
    if arguments is None:
        keep_writing()
        wait_without_spinning()
    argv = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments is None:
            lend_home()
        return _run(argv)
    except KeyboardInterrupt:
        return STOPPED_BY_SIGNAL + 2
    except OSError as error:
        return _fail(_system_error(error))
    except ValueError as error:
        return _fail(str(error) or type(error).__name__)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return _fail(
            f"out of memory ({reason[:200]}); reduce batch_size or the model, or split each training batch into more "
            "pieces (PART_training.accumulate)"
        )


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
    elif argv[0] == "--version":
        print(f"strait {__version__}")
    elif argv[0] not in VERBS:
        return _fail(f"there is no verb {argv[0]!r}; the verbs are {', '.join(VERBS)}")
    else:
        status = _module(argv[0]).run(argv[1:])
        sys.stdout.flush()
        return status
    sys.stdout.flush()
    return 0


def _system_error(error: OSError) -> str:
    """The file, what the system says of it, and a remedy: ``out/a.png: no space left on device; free some ...``."""
    if not error.strerror or error.errno is None:
        return str(error) or type(error).__name__
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    remedy = _REMEDIES.get(error.errno, "")
    return f"{place}{error.strerror[0].lower()}{error.strerror[1:]}{remedy and '; '}{remedy}"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error is a failed allocation; torch has a type for those on a GPU, but only messages on a CPU."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return any(message in str(error) for message in _OUT_OF_MEMORY)


def _module(verb: str) -> ModuleType:
    """The file of a verb: its docstring starts with the verb's purpose, and ``run(argv)`` returns the exit status."""
    return importlib.import_module(f"strait.commands.{verb}")


def _fail(message: str) -> int:
    # User input may contain control characters.
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", " ".join(message.split()))
    print(f"strait: {shown}", file=sys.stderr)
    return 2


def _help() -> str:
    purposes = {verb: (_module(verb).__doc__ or "").partition("\n")[0] for verb in VERBS}
    verbs = "\n".join(f"  {verb:<10} {purpose}" for verb, purpose in purposes.items())
    return (
        "strait: stratified image transformer\n\n"
        f"usage: strait VERB [options]      strait VERB --help      strait --version\n\n{verbs}"
    )


if __name__ == "__main__":
    sys.exit(main())
