"""C++ beside this file, compiled at first use for the machine at hand and kept for the next time.

Plain C functions behind ctypes: no headers of Python's or PyTorch's are needed, so that a build takes seconds and any
C++17 compiler with GNU vectors (GCC, Clang) will do: `$CXX`, or `c++`. A library is named after all that went into
it and is moved into place whole, so that processes may build at the same time.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
LIBRARIES = (
    "history_norm",
    "history_sum",
    "light_block",
    "light_merge",
    "pooling",
    "residual",
    "residual_value",
    "value_map",
)
FLAGS = ("-std=gnu++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")


def library(name: str) -> ctypes.CDLL:
    """The library made of NAME.cpp.

    Raises:
        OSError: it cannot be built here; the compiler's words are in the message.
    """
    built = built_library(name)
    if isinstance(built, str):
        raise OSError(built)
    return built


def obstacle() -> str | None:
    """Why nothing can be built here, if so."""
    return next((built for name in LIBRARIES if isinstance(built := built_library(name), str)), None)


@functools.cache
def built_library(name: str) -> ctypes.CDLL | str:
    """The library, or why there is none."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return "no C++ compiler is installed (c++, or what CXX names)"
    try:
        target = cache_folder() / f"{name}-{fingerprint(compiler)}.so"
        if not target.exists():
            build(compiler, SOURCES / f"{name}.cpp", target)
        return ctypes.CDLL(str(target))
    except subprocess.CalledProcessError as error:
        return f"{compiler} cannot compile {name}.cpp: {error.stderr.strip()[:500]}"
    except OSError as error:
        return f"{name}.cpp cannot be built by {compiler}, or loaded: {error}"


def cache_folder() -> Path:
    """Where libraries are kept."""
    root = os.environ.get("CROSSLAYER_CACHE") or Path.home() / ".cache" / "crosslayer"
    return Path(root) / "native"


@functools.cache
def fingerprint(compiler: str) -> str:
    """Of sources, flags, compiler and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, text=True).stdout
    texts = [path.read_text() for path in sorted(SOURCES.glob("*.[ch]*"))]
    return hashlib.sha256("\0".join([*texts, *FLAGS, version, processor()]).encode()).hexdigest()[:16]


def processor() -> str:
    """What `-march=native` looks at: a cache in a home folder may serve several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def build(compiler: str, source: Path, target: Path) -> None:
    """Compiles to a file beside the target, then moves it there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / "library.so"
        subprocess.run([compiler, *FLAGS, str(source), "-o", str(made)], capture_output=True, check=True, text=True)
        made.replace(target)
