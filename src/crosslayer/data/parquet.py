"""Parquet files: columns of one type whatever each file's own, and pictures in them; damage is told in one sentence."""

import bisect
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from crosslayer.console import plain
from crosslayer.data.pictures import open_picture
from crosslayer.data.split import Split
from crosslayer.errors import UsageError, reason

_PICTURES = pa.schema([("bytes", pa.large_binary()), ("path", pa.large_binary())])


def column_names(file: Path) -> list[str]:
    """A file's columns."""
    with _opened(file) as opened:
        return opened.schema_arrow.names


def schema_metadata(file: Path) -> dict[bytes, bytes] | None:
    """What a file's schema is accompanied by."""
    with _opened(file) as opened:
        return opened.schema_arrow.metadata


def read_column(file: Path, column: str) -> pa.ChunkedArray:
    """One column, mapped into memory, with its values spelled out where it numbers them.

    Raises:
        UsageError: the file is damaged, or has no such column.
    """
    with _opened(file) as opened:
        schema = opened.schema_arrow
        if schema.names.count(column) != 1:
            raise UsageError(f"{plain(file)} has {schema.names.count(column)} columns {column!r}; it needs one")
        try:
            groups = [opened.read_row_group(i, [column], use_threads=False) for i in range(opened.num_row_groups)]
            values = pa.concat_tables(groups)[column] if groups else schema.empty_table()[column]
            if len(values) != opened.metadata.num_rows:
                raise ValueError(f"column {column!r} has {len(values)} of {opened.metadata.num_rows} rows")
            return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
        except _DAMAGE as error:
            raise _damaged(file, error) from error


_DAMAGE = (pa.ArrowException, OSError, MemoryError, ValueError, KeyError, IndexError, OverflowError)


def _opened(file: Path) -> pq.ParquetFile:
    """A file whose footer agrees with its size."""
    try:
        opened = pq.ParquetFile(file, memory_map=True, page_checksum_verification=True)
        metadata = opened.metadata
        _check_footer(metadata, file.stat().st_size)
        return opened
    except _DAMAGE as error:
        raise _damaged(file, error) from error


def _check_footer(metadata: pq.FileMetaData, size: int) -> None:
    """Refuses rows and bytes that cannot be there, before memory is taken for them.

    What the footer says of single columns is left to the reader: pyarrow ends the process where that is damaged.
    """
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    if metadata.num_rows != sum(group.num_rows for group in groups):
        raise ValueError("its footer counts its rows in two ways")
    if not all(0 <= group.total_byte_size <= _MOST_PACKED * size for group in groups):
        raise ValueError("its footer tells of more bytes than it can hold")


_MOST_PACKED = 1 << 14
"""Times that a file may be smaller than its columns."""


def _damaged(file: Path, error: BaseException) -> UsageError:
    return UsageError(f"--data {plain(file)}: not a readable parquet file ({plain(reason(error))})")


def read_pictures(files: Sequence[Path], column: str) -> pa.Table:
    """The encoded pictures of some files, and the names stored with them."""
    return pa.concat_tables([_pictures(file, column) for file in files])


def _pictures(file: Path, column: str) -> pa.Table:
    """A file's pictures, whether it holds them as structs of bytes and path, or as bytes.

    Raises:
        UsageError: it holds something else, or a row without bytes.
    """
    values = read_column(file, column)
    kind = values.type
    fields = [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    try:
        parts = dict(zip(fields, values.flatten(), strict=True)) if fields else {}
        encoded = parts.get("bytes") if fields else values
        if encoded is None or not (_is_bytes(encoded.type) or pa.types.is_null(encoded.type)):
            raise UsageError(f"{plain(file)}: column {column!r} holds {plain(kind)[:200]}, not the bytes of pictures")
        names = parts.get("path", pa.chunked_array([pa.nulls(len(values))]))
        if not (pa.types.is_string(names.type) or pa.types.is_large_string(names.type)):
            names = pa.chunked_array([pa.nulls(len(values))])
        table = pa.Table.from_arrays([_cast(encoded), _cast(names)], schema=_PICTURES)
    except _DAMAGE as error:
        raise error if isinstance(error, UsageError) else _damaged(file, error) from error
    if encoded.null_count:
        row = int(np.flatnonzero(encoded.is_null().to_numpy())[0])
        name = _stored_name(table["path"][row])
        raise UsageError(
            f"{plain(file)}, row {row}{name}: there are no bytes of a picture in column {column!r}; leave such rows "
            "out, and store pictures, not their paths"
        )
    return table


def _cast(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(pa.large_binary())


def _is_bytes(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _stored_name(path: pa.Scalar) -> str:
    stored = path.as_py()
    return f" ({plain(stored.decode(errors='surrogateescape'))[:200]})" if stored else ""


@final
class ParquetSplit(Split):
    """Encoded images in a column of parquet files; a process it is sent to reads the files itself."""

    def __init__(self, pictures: pa.Table, files: list[Path], column: str, labels: np.ndarray, mark: str) -> None:
        super().__init__(labels, mark)
        self.pictures, self.files, self.column = pictures, files, column
        self.ends = np.cumsum([pq.read_metadata(file).num_rows for file in files]).tolist()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "pictures"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, pictures=read_pictures(state["files"], state["column"]))

    def open(self, i: int) -> Image.Image:
        """Image i."""
        return open_picture(io.BytesIO(self.pictures["bytes"][i].as_py()))

    def name(self, i: int) -> str:
        """Its file and row there, and the file name stored with it."""
        file = bisect.bisect_right(self.ends, i)
        row = i - (self.ends[file - 1] if file else 0)
        return f"{plain(self.files[file])}, row {row}{_stored_name(self.pictures['path'][i])}"
