"""Standard streams that survive any encoding, a full disk and a closed pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

import typer

from tlp_runtime.errors import OutputError

PIPE_CLOSED = 141
"""Exit code of a command whose reader went away: 128 + SIGPIPE, as shells report it."""


def encodable(text: str, stream: TextIO) -> str:
    """Text with escapes for what the encoding of ``stream`` lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class StandardStream:
    """A standard stream that escapes what it cannot encode.

    Parameters
    ----------
    stream
        Where the text goes.
    required
        Whether a failed write ends the command: with :class:`OutputError`, quietly with
        ``PIPE_CLOSED`` if the reader went away. Otherwise the text is lost.
    """

    def __init__(self, stream: TextIO, *, required: bool) -> None:
        self._stream = stream
        self._required = required

    def write(self, text: str) -> int:
        """Write text, with escapes where the encoding needs them."""
        with self._checked():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(encodable(text, self._stream))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream."""
        with self._checked():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._required:
                return
            if isinstance(error, BrokenPipeError):
                raise typer.Exit(PIPE_CLOSED) from error
            reason = error.strerror or error
            raise OutputError(f"standard output cannot be written: {reason}.") from error


@contextmanager
def standard_streams() -> Iterator[None]:
    """Print through :class:`StandardStream`: results must be written, notes may be lost."""
    with ExitStack() as stack:
        if sys.stdout is not None:
            output = cast(TextIO, StandardStream(sys.stdout, required=True))
            stack.enter_context(redirect_stdout(output))
        if sys.stderr is not None:
            notes = cast(TextIO, StandardStream(sys.stderr, required=False))
            stack.enter_context(redirect_stderr(notes))
        yield


def drop_unwritten() -> None:
    """Keep Python from failing at exit over text that a stream did not take."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
