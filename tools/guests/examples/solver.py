"""Finds a way from numbers to a target with + - * /, by forking itself.

`solve TARGET N N ...` forks one branch for each first step. Every branch searches all that can
follow, says how near it came, and keeps its own best plan. The reply names the best branch: commit
that one, and this agent has its plan. `plan` replies the plan.
"""

import asyncio


def steps(numbers):
    """Every step from `numbers`: what is written down, and the numbers that are left."""
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i == j:
                continue
            rest = [n for k, n in enumerate(numbers) if k != i and k != j]
            if i < j:
                yield f"{a} + {b} = {a + b}", [*rest, a + b]
                yield f"{a} * {b} = {a * b}", [*rest, a * b]
            if a > b:
                yield f"{a} - {b} = {a - b}", [*rest, a - b]
            if b > 1 and a % b == 0:
                yield f"{a} / {b} = {a // b}", [*rest, a // b]


def search(target, numbers, plan):
    """The nearest that can be reached: its distance, and the steps to it."""
    best = min(abs(target - n) for n in numbers), plan
    for step, left in steps(numbers):
        if best[0] == 0:
            break
        found = search(target, left, [*plan, step])
        if found[0] < best[0]:
            best = found
    return best


async def solve(ctx, target, numbers):
    """One branch for each first step; which of them came nearest."""
    first = list(steps(numbers))
    here = await ctx.fork(len(first))
    if here.index > 0:  # a branch: the same memory, another future
        ctx.state.ahead = (target, *first[here.index - 1])
        return None  # the message that began this is the parent's to answer
    found = await asyncio.gather(*(ctx.call(key, "search") for key in here.keys))
    distance, best = min(zip(map(int, found), here.keys))
    return {"branches": len(found), "distance": distance, "best": best}


async def on_message(ctx, message):
    if message == "plan":
        return ctx.state.get("plan", [])
    if message == "search":
        target, step, left = ctx.state.ahead
        distance, ctx.state.plan = search(target, left, [step])
        return distance
    target, *numbers = map(int, message.removeprefix("solve ").split())
    return await solve(ctx, target, numbers)
