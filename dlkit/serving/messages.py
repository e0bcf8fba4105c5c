"""Messages of protobuf of which a few fields are read, without the code that comes with the others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

# Message -> field -> number and type: a message, or one of `SCALARS`; a star says repeated. A map is
# a repeated entry, so that a key given twice hides nothing.
Schema = Mapping[str, Mapping[str, tuple[int, str]]]
# descriptor.proto's numbers of the types that are no messages. An enum is read as int32.
SCALARS = {"int64": 3, "int32": 5, "string": 9}
MESSAGE, OPTIONAL, REPEATED = 11, 1, 3


class Messages:
    """The messages of a schema; protobuf skips the fields that it does not name."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def read(self, name: str, path: Path) -> Any:
        """Parse a file as the message `name`.

        Raises:
            ValueError: it is none, in one line.
        """
        from google.protobuf import message_factory
        from google.protobuf.message import DecodeError

        kind = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"read.{name}"))
        try:
            return kind.FromString(path.read_bytes())
        except (DecodeError, OSError) as error:
            raise ValueError(str(error).partition("\n")[0]) from None

    @cached_property
    def _pool(self) -> Any:
        from google.protobuf import descriptor_pb2, descriptor_pool

        file = descriptor_pb2.FileDescriptorProto(name="read", package="read", syntax="proto3")
        for name, fields in self.schema.items():
            message = file.message_type.add(name=name)
            for field, (number, kind) in fields.items():
                scalar = SCALARS.get(kind.removesuffix("*"))
                message.field.add(
                    name=field,
                    number=number,
                    label=REPEATED if kind.endswith("*") else OPTIONAL,
                    type=scalar or MESSAGE,
                    type_name=None if scalar else f".read.{kind.removesuffix('*')}",
                )
        pool = descriptor_pool.DescriptorPool()  # TensorFlow's messages are in the default one
        pool.Add(file)
        return pool
