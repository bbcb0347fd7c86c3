"""Standard output of an agent: caught for an exec request, else written at the end of a turn.

Owns: sys.stdout and sys.stderr.  Not: where the host puts what is written.
O1  what an exec request prints comes back with its reply, cut after CATCH_CHARS_MAX.
O2  output outside of one is held until the turn ends or HOLD_CHARS_MAX are there.
"""

import contextvars
import io
import os
import sys

CATCH_CHARS_MAX = 1 << 20
HOLD_CHARS_MAX = 1 << 14

_all = None  # the catcher of code that cannot await, so that nobody else prints meanwhile
_catcher = contextvars.ContextVar("heronry_output", default=None)


class Catcher:
    """What one exec request has printed so far."""

    __slots__ = ("parts", "chars", "cut", "open")

    def __init__(self):
        self.parts = []
        self.chars = 0
        self.cut = 0
        self.open = True

    def write(self, text):
        room = CATCH_CHARS_MAX - self.chars
        if len(text) > room:
            self.cut += len(text) - room
            text = text[:room]
        self.chars += len(text)
        self.parts.append(text)

    def text(self):
        cut = [f"\n[{self.cut} more characters of output were cut]\n"] if self.cut else []
        return "".join(self.parts + cut)


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer`: bytes are printed as the text they are."""

    def __init__(self, stream):
        self._stream = stream

    def writable(self):
        return True

    def write(self, data):
        data = bytes(data)
        self._stream.write(data.decode("utf-8", "backslashreplace"))
        return len(data)


class Stream(io.TextIOBase):
    """A standard stream of the agent."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor, name):
        self._descriptor = descriptor
        self._held = []
        self._chars = 0
        self.name = name
        self.mode = "w"
        self.buffer = _Bytes(self)

    def writable(self):
        return True

    def isatty(self):
        return False

    def fileno(self):
        return self._descriptor

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        catcher = _all or _catcher.get()
        if catcher is not None and catcher.open:
            catcher.write(text)
        elif text:
            self._held.append(text)
            self._chars += len(text)
            if self._chars > HOLD_CHARS_MAX:
                self.flush()
        return len(text)

    def flush(self):
        if self._held:
            data = "".join(self._held).encode("utf-8", "backslashreplace")
            self._held.clear()
            self._chars = 0
            while data:
                data = data[os.write(self._descriptor, data):]


def catch_all():
    """Starts to catch whatever is printed, until release_all()."""
    global _all
    _all = Catcher()
    return _all


def release_all():
    """Ends what catch_all() began."""
    global _all
    _all = None


def catch():
    """Starts to catch what this task and its children print; undone by release()."""
    catcher = Catcher()
    return catcher, _catcher.set(catcher)


def release(catcher, token):
    """Ends what catch() began; tasks that outlive the request print as others do."""
    catcher.open = False
    _catcher.reset(token)


stdout = Stream(1, "<stdout>")
stderr = Stream(2, "<stderr>")
sys.stdout = sys.__stdout__ = stdout
sys.stderr = sys.__stderr__ = stderr


def flush():
    """The end of a turn (O2)."""
    stdout.flush()
    stderr.flush()
