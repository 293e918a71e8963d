"""TensorBoard's file of a run: one, that grows by an epoch's figures, whatever ended the run in between."""

import io
import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  # made as loaded
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from crosslayer.files import cannot_write, disk

EVENTS = "events.out.tfevents.crosslayer"
_HEAD, _CHECK = struct.Struct("<QI"), struct.Struct("<I")
"""A record: its length and that number's checksum, then its bytes and theirs."""


@final
class ScalarLog:
    """Adds rows to the events of a folder.

    Args:
        folder: where TensorBoard looks.
        epoch: the next row's; what was logged of it and later ones before is void.

    Raises:
        FailedError: they could not be written.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        self.path = folder / EVENTS
        try:
            disk.make_folder(folder)
            self.descriptor = disk.open(self.path)
            whole = sum(len(record) for record in records(self.path.read_bytes()))
            disk.truncate(self.descriptor, whole)
            if whole == 0:
                self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
            else:
                started = SessionLog(status=SessionLog.START)
                self._write(Event(wall_time=time.time(), step=epoch, session_log=started))
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def add(self, row: Mapping[str, Any]) -> None:
        """One epoch's figures, those that are None left out.

        Raises:
            FailedError: they could not be written.
        """
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "epoch" and value is not None
        ]
        now = time.time()
        events = [Event(wall_time=now, step=row["epoch"], summary=Summary(value=[value])) for value in values]
        try:
            self._write(*events)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Closes the file."""
        os.close(self.descriptor)

    def _write(self, *events: Event) -> None:
        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            writer.write(event.SerializeToString())
        left = buffer.getbuffer()
        while left:
            left = left[disk.write(self.descriptor, left) :]


def records(content: bytes) -> Iterator[bytes]:
    """The records of events from the first on, up to one that is torn or damaged."""
    position = 0
    while position + _HEAD.size <= len(content):
        length, check = _HEAD.unpack_from(content, position)
        body = position + _HEAD.size
        end = body + length + _CHECK.size
        if end > len(content) or check != masked_crc32c(content[position : position + 8]):
            return
        if _CHECK.unpack_from(content, body + length)[0] != masked_crc32c(content[body : body + length]):
            return
        yield content[position:end]
        position = end
