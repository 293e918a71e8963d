"""C++ of the ops, compiled at first use for the machine at hand and kept for the next time.

Plain C functions behind ctypes: no headers of Python's or PyTorch's are needed, so that a build takes seconds and any
C++17 compiler with GNU vectors (GCC, Clang) will do: `$CXX`, a command line, or `c++`. A library is named after all
that went into it and after its own bytes, and is moved into place whole: processes may build at the same time, and
what a full disk or a crash left of one is built anew instead of loaded.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crosslayer.cache import cache_dir, temporary_cache

SOURCES = Path(__file__).parent.parent
LIBRARIES = ("history_sum", "light_block", "light_merge", "pooling", "residual_output", "residual_value")
"""Each is made of an op's own cpu.cpp."""
FLAGS = ("-std=gnu++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
WORKERS = 2
"""Compilers that run at a time."""
STALE = 3600
"""Seconds after which a build is no longer going on: what it left may be removed."""
PREFIX = "crosslayer-build-"
"""Of temporary folders and files."""

_logger = logging.getLogger(__name__)
Command = tuple[str, ...]


def library(name: str) -> ctypes.CDLL:
    """The library made of NAME/cpu.cpp.

    Raises:
        OSError: it cannot be built here; the compiler's words are in the message.
    """
    built = built_library(name)
    if isinstance(built, str):
        raise OSError(built)
    return built


def obstacle() -> str | None:
    """Why nothing can be built here, if so, which is also logged once as a warning: what runs instead is slower."""
    if _unloaded():
        with ThreadPoolExecutor(WORKERS) as workers:
            list(workers.map(built_library, LIBRARIES))
    reason = next((built for name in LIBRARIES if isinstance(built := built_library(name), str)), None)
    if reason is not None:
        warn_once(f"C++ kernels are not used, and plain PyTorch is slower: {reason}")
    return reason


def build_all(report: Callable[[str], None] | None = None) -> float:
    """Builds all libraries that are not kept yet.

    Args:
        report: is told in a line each that a build begins, and how long it took or why nothing came of it.

    Returns:
        The seconds it took.
    """
    tell = report or (lambda _line: None)
    began = time.perf_counter()
    missing = _unloaded() and not all(map(_is_kept, LIBRARIES))
    if missing:
        tell("building C++ kernels …")
    reason = obstacle()
    seconds = time.perf_counter() - began
    if reason is not None:
        tell(f"C++ kernels cannot be built: {reason}")
    elif missing:
        tell(f"building C++ kernels took {seconds:.0f} s")
    return seconds


def _unloaded() -> bool:
    """Whether this process has not looked for all libraries yet."""
    return built_library.cache_info().currsize < len(LIBRARIES)


@functools.cache
def built_library(name: str) -> ctypes.CDLL | str:
    """The library, or why there is none."""
    try:
        command = compiler()
        stem = f"{name}-{fingerprint(command)}"
        return _kept_library(stem) or _new_library(command, SOURCES / name / "cpu.cpp", stem)
    except subprocess.CalledProcessError as error:
        return f"{shlex.join(error.cmd[:1])} cannot compile {name}/cpu.cpp: {_one_line(error.stderr)}"
    except FileNotFoundError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"{name}/cpu.cpp cannot be built, or loaded: {error}"


def _is_kept(name: str) -> bool:
    """Whether nothing has to be compiled for a library."""
    try:
        return any(map(_is_whole, _kept_files(f"{name}-{fingerprint(compiler())}")))
    except (OSError, ValueError, subprocess.CalledProcessError):
        return False


def compiler() -> Command:
    """The compiler's command line.

    Raises:
        FileNotFoundError: there is none.
        ValueError: `$CXX` is no command line.
    """
    program, *words = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    found = shutil.which(program)
    if found is None:
        raise FileNotFoundError("no C++ compiler is installed (c++, or what CXX names)")
    return found, *words


def cache_folder() -> Path:
    """Where libraries are kept."""
    return cache_dir("native")


def _kept_files(stem: str) -> list[Path]:
    """Kept libraries of that name, whatever their bytes; none in a folder that others could have filled."""
    folder = cache_folder()
    return sorted(folder.glob(f"{stem}-*.so")) if _is_safe(folder) else []


def _is_safe(folder: Path) -> bool:
    """Whether a folder is there and, of those that libraries come from, only its owner or a group writes to it."""
    try:
        status = folder.stat()
    except OSError:
        return False
    if folder.parent == temporary_cache():
        return all(path.stat().st_uid == os.getuid() for path in (folder, folder.parent))
    return not status.st_mode & 0o002


def _kept_library(stem: str) -> ctypes.CDLL | None:
    """A library from the cache; damaged ones are removed, if they may be."""
    for path in _kept_files(stem):
        if _is_whole(path):
            with contextlib.suppress(OSError):
                return ctypes.CDLL(str(path))
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def _is_whole(path: Path) -> bool:
    """Whether a library has the bytes that it is named after."""
    try:
        return path.stem.endswith(f"-{digest(path.read_bytes())}")
    except OSError:
        return False


def _new_library(command: Command, source: Path, stem: str) -> ctypes.CDLL:
    """Compiles in a temporary folder and moves the library into the cache, or loads it from where it is."""
    _remove_stale(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        made = Path(folder) / f"{stem}.so"
        run([*command, *FLAGS, str(source), "-o", str(made)])
        try:
            return ctypes.CDLL(str(keep(made)))
        except OSError as error:
            warn_once(
                f"C++ kernels are built anew by each process: {cache_folder()} keeps none ({error.strerror or error})"
            )
            return ctypes.CDLL(str(made))


def keep(made: Path) -> Path:
    """Copies a library into the cache under its whole name, all of it or nothing."""
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_safe(folder):
        raise PermissionError(f"others may write to {folder}")
    _remove_stale(folder)
    content = made.read_bytes()
    target = folder / f"{made.stem}-{digest(content)}.so"
    descriptor, partial = tempfile.mkstemp(dir=folder, prefix=PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o755)
        return Path(partial).replace(target)
    finally:
        Path(partial).unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Removes what killed builds left."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime < STALE:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


@functools.cache
def fingerprint(command: Command) -> str:
    """Of sources, flags, compiler and processor."""
    texts = sorted([*SOURCES.glob("*/*.cpp"), *SOURCES.glob("*/*.h")])
    sources = [path.read_bytes() for path in texts]
    words = [word.encode() for word in (*FLAGS, *command[1:])]
    return digest(b"\0".join([*sources, *words, run([*command, "--version"]), processor(command)]))


def processor(command: Command) -> bytes:
    """What `-march=native` means here: a cache in a home folder may serve several machines."""
    try:
        macros = run([*command, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    except subprocess.CalledProcessError:
        macros = b""
    return macros or processor_features().encode()


def processor_features() -> str:
    """What the system says of it, for compilers that do not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def digest(content: bytes) -> str:
    """Of a library, or of what it is made of."""
    return hashlib.sha256(content).hexdigest()[:16]


def run(command: list[str]) -> bytes:
    """What a compiler prints, in English."""
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, check=True, env=environment, stdin=subprocess.DEVNULL).stdout


def _one_line(message: bytes) -> str:
    """The beginning of a compiler's complaint, in whatever encoding."""
    return " ".join(message.decode(errors="replace").split())[:500]


@functools.cache
def warn_once(message: str) -> None:
    """Logs it."""
    _logger.warning(message)
