"""Heronry's library for agents in Python.

An agent is a file with a handler:

    async def on_message(ctx, message):
        ctx.state.count = ctx.state.get("count", 0) + 1
        return f"{message} is message {ctx.state.count}"

`message` is a `str`, or `bytes` where it is not UTF-8. The handler returns `str`, `bytes`, `None`
(an empty reply) or anything that `json.dumps` takes. Whatever it keeps in memory persists: in
`ctx.state`, in globals, in objects; also in the middle of an `await`.
"""

from . import _stubs

_stubs.install()  # before the first import that needs one

from ._errors import Forked, Refused
from ._context import Checkpoint, Context, Fork, Response, State, ctx

__all__ = ["Checkpoint", "Context", "Fork", "Forked", "Refused", "Response", "State", "ctx"]
