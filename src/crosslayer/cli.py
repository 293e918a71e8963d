"""The command line."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from crosslayer import __version__

COMMANDS = {
    "train": "train a network on images, or go on with a run",
    "evaluate": "accuracy or average precision of a run, per class too",
    "predict": "what a run's network sees in image files",
    "attention": "draw how the blocks of one or two runs attend to each other",
    "compare": "runs side by side in a table",
    "report": "one HTML page of all runs and studies of a folder",
    "reproduce": "train and render a table or figure of the paper, or a question it leaves open",
    "bench": "throughput, memory and distance from the limit, against the plain network",
    "profile": "parameters and multiply-accumulates of a network",
    "list": "mechanisms with their options, backbones, recipes",
}
HELP = "usage: crosslayer COMMAND [OPTION …]\n\nLayer attention for PyTorch vision networks.\n\ncommands:\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 (failed), 2 (usage), 128 + signal (interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        listing = "".join(f"  {name:<10} {text}\n" for name, text in COMMANDS.items())
        print(f"{HELP}{listing}\ncrosslayer COMMAND --help explains each.")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"crosslayer {__version__}")
        return 0
    return guarded(words[0], words[1:])


def guarded(command: str, words: list[str]) -> int:
    """Runs a command, if there is one of that name and what it needs is installed."""
    from crosslayer.mechanisms.interface import unknown_name

    if command not in COMMANDS:
        return complain(unknown_name("command", command, COMMANDS), 2)
    try:
        function = find_command(command)
    except ModuleNotFoundError as error:
        return complain(f"the command line needs {error.name}: pip install 'crosslayer[train]'", 1)
    return outcome(function, words)


def outcome(function: Callable[[list[str]], None], words: list[str]) -> int:
    """The exit code of a command's function; what the user can mend is one sentence on standard error."""
    import torch

    from crosslayer.allocation import keep_freed_memory
    from crosslayer.errors import FailedError, UsageError
    from crosslayer.training.interruption import InterruptedRun

    keep_freed_memory()
    try:
        function(words)
        sys.stdout.flush()
    except UsageError as error:
        return complain(str(error), 2)
    except FailedError as error:
        return complain(str(error), 1)
    except InterruptedRun as interruption:
        return complain(str(interruption), interruption.exit_code)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except torch.OutOfMemoryError:
        return complain("the device has not enough memory; lower --batch-size or raise --accumulate", 1)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    return 0


def find_command(command: str) -> Callable[[list[str]], None]:
    """The function `run` of the command's module."""
    return import_module(f"crosslayer.commands.{command}").run


def complain(sentence: str, code: int) -> int:
    """Says what is wrong."""
    print(f"crosslayer: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
