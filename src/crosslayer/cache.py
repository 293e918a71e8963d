"""Where what can be made anew is kept: decoded and downloaded data, compiled C++."""

import os
import tempfile
from pathlib import Path


def cache_dir(kind: str) -> Path:
    """The folder for one kind of content; it need not be there yet.

    Below $CROSSLAYER_CACHE, else $XDG_CACHE_HOME/crosslayer, else ~/.cache/crosslayer; for a user without a home folder
    in one of the user's own among the temporary ones.
    """
    try:
        if given := os.environ.get("CROSSLAYER_CACHE"):
            return Path(given).expanduser() / kind
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosslayer" / kind
    except RuntimeError:
        return temporary_cache() / kind


def temporary_cache() -> Path:
    """This user's among the temporary folders."""
    return Path(tempfile.gettempdir()) / f"crosslayer-{os.getuid()}"
