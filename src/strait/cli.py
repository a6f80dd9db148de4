"""The command line: one verb, one file of `commands`. Nothing here imports torch before a verb has been understood."""

from __future__ import annotations

import importlib
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


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit status. Errors of the user's are one line on standard error.

    Args:
        arguments: the verb and its options; those of the command line by default, and then the process is set up, too.
    """
    if arguments is None:
        keep_writing()
        wait_without_spinning()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments is None:
            lend_home()
        return _run(words)
    except KeyboardInterrupt:
        return STOPPED_BY_SIGNAL + 2
    except (ValueError, OSError) as error:
        return _fail(str(error) or type(error).__name__)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return _fail(
            f"there is not enough memory ({reason[:200]}); a smaller batch_size or a smaller model needs less, and so "
            "does training a batch in more pieces (PART_training.accumulate)"
        )


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
    elif words[0] == "--version":
        print(f"strait {__version__}")
    elif words[0] not in VERBS:
        return _fail(f"there is no verb {words[0]!r}; there are {', '.join(VERBS)}")
    else:
        status = _module(words[0]).run(words[1:])
        sys.stdout.flush()
        return status
    sys.stdout.flush()
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error is an allocation that failed; torch has a type for a GPU's, and words for a CPU's."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)


def _module(verb: str) -> ModuleType:
    """The file of a verb: its first line is the verb's purpose, its ``run(words)`` returns the exit status."""
    return importlib.import_module(f"strait.commands.{verb}")


def _fail(message: str) -> int:
    # What somebody typed may hold what moves a terminal's cursor.
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
