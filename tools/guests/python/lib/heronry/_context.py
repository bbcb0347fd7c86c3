"""`ctx`: what an agent sees of the world, and its state.

Owns: the operations an agent can ask for, how payloads and answers look in Python.
Not: when an answer comes (`_loop.py`), secrets (the host puts them in, by name).
"""

import base64
import json

import _heronry

from ._errors import Refused
from ._loop import RESTORED, loop, sleep

FORK_COUNT_MAX = 10_000
LABEL_CHARS_MAX = 63


class State(dict):
    """A dict whose entries are attributes as well; what is in it persists."""

    __slots__ = ()

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"ctx.state has no {name!r} yet") from None

    def __setattr__(self, name, value):
        self[name] = value

    def __delattr__(self, name):
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"ctx.state has no {name!r}") from None


class Checkpoint:
    """A sealed version: its number, and whether a rollback brought the agent back to it."""

    __slots__ = ("version", "restored")

    def __init__(self, version, restored):
        self.version = version
        self.restored = restored

    def __repr__(self):
        return f"Checkpoint(version={self.version!r}, restored={self.restored})"


class Fork:
    """Where a fork left us: `index` 0 in the parent, 1..n in the branches; `keys` of the branches
    in the parent."""

    __slots__ = ("index", "keys")

    def __init__(self, index, keys):
        self.index = index
        self.keys = keys

    def __repr__(self):
        return f"Fork(index={self.index}, keys={self.keys!r})"


class Response:
    """An HTTP response: `status`, `headers` (names in lower case), `body` in bytes."""

    __slots__ = ("status", "headers", "body")

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self):
        return self.body.decode("utf-8", "replace")

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"Response(status={self.status}, {len(self.body)} bytes)"


def to_bytes(value):
    """A payload as bytes: text in UTF-8, bytes as they are, nothing for None, else JSON."""
    if type(value) is str:
        return value.encode()
    if value is None:
        return b""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    return json.dumps(value, ensure_ascii=False).encode()


def from_bytes(payload):
    """A payload as text, or as bytes where it is not UTF-8."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload


def _label(label):
    """A label as the host takes it; none for the newest checkpoint."""
    if label is None or label == "":
        return ""
    if not isinstance(label, str):
        raise TypeError(f"the label is {label!r}; it must be text")
    if len(label) > LABEL_CHARS_MAX or not all("!" <= char <= "~" for char in label):
        allowed = f"1 to {LABEL_CHARS_MAX} characters of visible ASCII without spaces"
        raise ValueError(f"the label is {label!r}; allowed: {allowed}")
    return label


def _answer(payload, status):
    return from_bytes(payload)


def _checkpoint(payload, status):
    text = payload.decode()
    version = int(text) if text.isdigit() else text or None
    return Checkpoint(version, status == RESTORED)


def _fork(payload, status):
    text = payload.decode()
    if status == RESTORED:
        return Fork(int(text), [])
    return Fork(0, text.split("\n") if text else [])


def _response(payload, status):
    fields = json.loads(payload)
    if "body_base64" in fields:
        body = base64.b64decode(fields["body_base64"])
    else:
        body = fields.get("body", "").encode()
    headers = {name.lower(): value for name, value in fields.get("headers", {}).items()}
    return Response(fields["status"], headers, body)


def _request(method, url, headers, body, secrets):
    fields = {"method": method, "url": url, "headers": headers or {}, "secrets": list(secrets)}
    body = to_bytes(body)
    try:
        fields["body"] = body.decode()
    except UnicodeDecodeError:
        fields["body_base64"] = base64.b64encode(body).decode()
    return json.dumps(fields, ensure_ascii=False).encode()


class Context:
    """The agent's handle on itself. There is one, `heronry.ctx`; every handler gets it."""

    __slots__ = ("key", "state")

    def __init__(self):
        self.key = ""
        self.state = State()

    def __setattr__(self, name, value):
        if name == "state" and type(value) is dict:
            value = State(value)
        object.__setattr__(self, name, value)

    async def call(self, key, payload=None):
        """Sends `payload` to the agent `key` and returns its reply; raises Refused."""
        return await loop.operation(_heronry.call(key, to_bytes(payload)), _answer)

    def send(self, key, payload=None):
        """Sends `payload` to the agent `key` and waits for nothing."""
        code = _heronry.send(key, to_bytes(payload))
        if code != 0:
            raise Refused("SEND", f"the message to {key!r} was not taken (code {code})")

    async def sleep(self, seconds):
        """Comes back after `seconds`; the agent may be evicted or moved meanwhile."""
        await sleep(seconds)

    async def http(self, method, url, *, headers=None, body=None, secrets=()):
        """An HTTP request by the host, to an allowed address; returns a Response.

        `secrets` names what the host puts in place of `{{secret:NAME}}` in the headers; the
        values never reach the agent.
        """
        request = _request(method, url, headers, body, secrets)
        return await loop.operation(_heronry.http(request), _response)

    async def checkpoint(self, label=None):
        """Seals a version. Comes back once more, with `.restored`, after a rollback to it."""
        return await loop.operation(_heronry.checkpoint(_label(label)), _checkpoint)

    async def fork(self, count=1):
        """Forks the agent as os.fork does a process: see Fork."""
        if not 1 <= count <= FORK_COUNT_MAX:
            raise ValueError(f"{count} branches asked for; allowed: 1 to {FORK_COUNT_MAX}")
        return await loop.operation(_heronry.fork(count), _fork)

    async def rollback(self, label=None):
        """Goes back to the version `label`, or to the newest checkpoint. Does not come back: the
        past continues there. Raises Refused when there is no such version."""
        await loop.operation(_heronry.rollback(_label(label)), _answer)

    def log(self, text):
        """A line for the operator's log."""
        _heronry.log(str(text))


ctx = Context()
