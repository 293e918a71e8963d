"""The command line."""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper

from crosslayer import __version__
from crosslayer.training.interruption import CommandSignals, InterruptedRun, StoppedCommand

COMMANDS = {
    "train": "train a network on images, or go on with a run",
    "evaluate": "accuracy or average precision of a run, per class too",
    "predict": "what a run's network sees in image files",
    "export": "write a network as ONNX, OpenVINO, a torch.export archive or TorchScript",
    "attention": "draw how the blocks of one or two runs attend to each other",
    "explain": "draw where a network looks in image files, and what each layer gives a block",
    "demo": "a page in the browser: a picture in, what a run's network sees and where it looks",
    "compare": "runs side by side in a table",
    "verify": "whether the files of runs are whole and belong together",
    "report": "one HTML page of all runs and studies of a folder",
    "reproduce": "train and render a table or figure of the paper, or a question it leaves open",
    "bench": "throughput, memory and distance from the limit, against the plain network",
    "push": "put a run's network on the Hugging Face Hub, with a model card",
    "profile": "parameters and multiply-accumulates of a network",
    "list": "mechanisms with their options, backbones, recipes",
}
HELP = "usage: crosslayer COMMAND [OPTION …]\n\nLayer attention for PyTorch vision networks.\n\ncommands:\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 (failed), 2 (usage), 128 + signal (interrupted)."""
    signals = CommandSignals(starting=arguments is None)
    signals.heed()
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments), signals)
    finally:
        if arguments is not None:  # a process of somebody else's
            signals.restore()


def _run(words: list[str], signals: CommandSignals) -> int:
    _print_any_text()
    if not words or words[0] in ("-h", "--help"):
        listing = "".join(f"  {name:<10} {text}\n" for name, text in COMMANDS.items())
        print(f"{HELP}{listing}\ncrosslayer COMMAND --help explains each; --print-completion bash|zsh|fish completes.")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"crosslayer {__version__}")
        return 0
    if words[0] == "--print-completion":
        return _print_completion(words[1:])
    return _guarded(words[0], words[1:], signals)


def _print_completion(words: list[str]) -> int:
    """Prints a script that completes commands and options."""
    from crosslayer.completion import SHELLS, completion_script

    if len(words) != 1 or words[0] not in SHELLS:
        return _complain(f"--print-completion takes one of {', '.join(SHELLS)}", 2)
    try:
        print(completion_script(words[0], COMMANDS, _find_command), end="")
    except ModuleNotFoundError as error:
        return _complain(_needed(error), 1)
    return 0


def _needed(error: ModuleNotFoundError) -> str:
    return f"the command line needs {error.name}: pip install 'crosslayer[train]'"


def _print_any_text() -> None:
    """The standard streams escape what their encoding has not (Windows' cp1252, ASCII), instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _let_threads_wait() -> None:
    """Threads that wait for each other spin for half a millisecond, then sleep, unless the user has decided.

    A mechanism's small kernels follow each other within that time, and waking a thread costs more than they do; but
    where anything else runs on the cores, threads that only spin take them from it. OpenMP reads this as torch is
    imported, GNU's runtime the number and others the policy.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _guarded(command: str, words: list[str], signals: CommandSignals) -> int:
    """Runs a command, if there is one of that name and what it needs is installed."""
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=2, cutoff=0.4)
        offer = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(COMMANDS)}"
        return _complain(f"unknown command {command!r}; {offer}", 2)
    _let_threads_wait()
    try:
        function = _find_command(command)
    except ModuleNotFoundError as error:
        return _complain(_needed(error), 1)
    return outcome(function, words, signals)


def outcome(function: Callable[[list[str]], None], words: list[str], signals: CommandSignals | None = None) -> int:
    """The exit code of a command's function; what the user can mend is one sentence on standard error."""
    import torch

    from crosslayer.allocation import keep_freed_memory
    from crosslayer.errors import FailedError, UsageError

    keep_freed_memory()
    try:
        if signals:
            signals.starting = False
        function(words)
        sys.stdout.flush()
    except UsageError as error:
        return _complain(str(error), 2)
    except FailedError as error:
        return _complain(str(error), 1)
    except InterruptedRun as interruption:
        return _complain(str(interruption), interruption.exit_code)
    except StoppedCommand as stop:
        return _complain("interrupted", stop.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except torch.OutOfMemoryError:
        return _complain("the device has not enough memory; lower --batch-size or raise --accumulate", 1)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except MemoryError:
        return _complain("there is not enough memory; lower --batch-size or raise --accumulate", 1)
    return 0


def _find_command(command: str) -> Callable[[list[str]], None]:
    """The function `run` of the command's module."""
    return import_module(f"crosslayer.commands.{command}").run


def _complain(sentence: str, code: int) -> int:
    """Says what is wrong."""
    print(f"crosslayer: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
