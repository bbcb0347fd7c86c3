"""Answers from a recording: stands in for a language model, or for tools.

`{"record": {QUESTION: ANSWER}}` teaches it; any other message is a question. An answer that was
not recorded is empty.
"""

import json


async def on_message(ctx, message):
    if message.startswith('{"record"'):
        ctx.state.update(json.loads(message)["record"])
        return len(ctx.state)
    return ctx.state.get(message)
