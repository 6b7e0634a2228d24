"""Bytes to frames and back: one JSON object a line, UTF-8, at most 64 KiB with its newline.

Knows no sockets: an end feeds what it has read to ``receive`` and writes what ``encode``
gives. A peer cannot make a decoder hold more than one unfinished frame.
"""

from typing import Generic, TypeVar

import msgspec

from cmappd.core.messages import Message, Reply, Request
from cmappd.errors import LocalProtocolError, RemoteProtocolError

MAX_FRAME = 64 * 1024

Said = TypeVar("Said")

_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder[Request](Request)
_replies = msgspec.json.Decoder[Reply](Reply)


def encode(message: Message) -> bytes:
    """The frame of one message. Raises LocalProtocolError if it cannot be sent."""
    kind = type(message).__name__
    try:
        frame = _encoder.encode(message) + b"\n"
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"cannot send {kind}: {error}") from None
    if len(frame) > MAX_FRAME:
        raise LocalProtocolError(f"cannot send {kind}: {len(frame)} bytes are over {MAX_FRAME}")
    return frame


class Receiver(Generic[Said]):
    """Turns bytes, cut anywhere, into messages. Of no use any more once it has raised."""

    __slots__ = ("_decoder", "_partial")

    def __init__(self, decoder: msgspec.json.Decoder[Said]) -> None:
        self._decoder = decoder
        self._partial = bytearray()

    def receive(self, data: bytes) -> list[Said]:
        """The messages that ``data`` completes. Raises RemoteProtocolError at the first bad one."""
        self._partial += data
        messages: list[Said] = []
        if b"\n" in data:  # or a frame that comes byte by byte would be searched each time
            *frames, self._partial = self._partial.split(b"\n")
            messages = [self._decode(frame) for frame in frames]
        if len(self._partial) >= MAX_FRAME:
            raise RemoteProtocolError(f"a frame is over {MAX_FRAME} bytes")
        return messages

    def _decode(self, frame: bytearray) -> Said:
        if len(frame) >= MAX_FRAME:
            raise RemoteProtocolError(f"a frame is over {MAX_FRAME} bytes")
        try:
            return self._decoder.decode(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteProtocolError(f"a frame cannot be read: {error}") from None


def requests() -> Receiver[Request]:
    """What cmappserver reads with."""
    return Receiver(_requests)


def replies() -> Receiver[Reply]:
    """What cmappmgr and cmappctl read with."""
    return Receiver(_replies)
