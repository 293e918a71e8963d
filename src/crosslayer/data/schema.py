"""What Hugging Face's `datasets` writes into a shard's schema: checked once, here."""

from typing import Any

import msgspec

from crosslayer.console import plain

_KEY = b"huggingface"


class _ClassLabel(msgspec.Struct):
    names: list[str] | None = None


class _Info(msgspec.Struct):
    features: dict[str, Any] | None = None


class _Metadata(msgspec.Struct):
    info: _Info | None = None


def class_names(metadata: dict[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """The class names of a label column; none where they are not told.

    Raises:
        ValueError: what is written there has another form; the sentence says where.
    """
    stored = (metadata or {}).get(_KEY)
    if stored is None:
        return ()
    try:
        info = msgspec.json.decode(stored, type=_Metadata | None)
        feature = info.info.features.get(column) if info and info.info and info.info.features else None
        label = msgspec.convert(feature, _ClassLabel | None)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return tuple(map(plain, label.names or ())) if label else ()
