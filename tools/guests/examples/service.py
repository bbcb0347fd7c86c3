"""A customer-service agent: talks to a customer, asks a model what to say, calls the tools it wants.

The transcript in `ctx.state` is all it has. Whoever answers for the model or the tools is told which
place in the transcript is to be filled, so the agent may be forked and rolled back at any message.

`{"begin": {"system": TEXT, "model": KEY, "tools": KEY}}` starts a conversation, `transcript`
replies it; any other message is the customer's.
"""

import json


async def on_message(ctx, message):
    if message == "transcript":
        return ctx.state.transcript
    if message.startswith('{"begin"'):
        begin = json.loads(message)["begin"]
        ctx.state.update(model=begin["model"], tools=begin["tools"])
        ctx.state.transcript = [{"role": "system", "content": begin["system"]}]
        return None
    ctx.state.transcript.append({"role": "user", "content": message})
    return await answer(ctx, ctx.state.transcript)


async def answer(ctx, transcript):
    """Lets the model speak and the tools work until there is something to say."""
    while True:
        said = await ctx.call(ctx.state.model, str(len(transcript)))
        if not said:
            return None  # the conversation is over
        said = json.loads(said)
        transcript.append(said)
        if not said.get("tool_calls"):
            return said["content"]
        for call in said["tool_calls"]:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            content = await ctx.call(ctx.state.tools, f"{len(transcript)} {name} {arguments}")
            transcript.append(
                {"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}
            )
