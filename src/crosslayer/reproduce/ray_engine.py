"""Runs on the machines and GPUs of a ray cluster."""

import io
import os
import socket
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crosslayer.errors import FailedError, UsageError
from crosslayer.reproduce.local import Failure
from crosslayer.reproduce.plan import Planned
