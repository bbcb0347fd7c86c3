"""Counts its messages. `ctx.state`, like every other object, stays between them."""


async def on_message(ctx, message):
    ctx.state.count = ctx.state.get("count", 0) + 1
    if message == "wait":
        await ctx.sleep(1)
    return f"{message} is message {ctx.state.count} of {ctx.key}"
