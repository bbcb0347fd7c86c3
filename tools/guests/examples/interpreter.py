"""A code interpreter, as a language model's tool: runs code, keeps each conversation's variables.

A message is JSON: {"conversation": NAME, "code": TEXT}, or {"conversation": NAME, "forget": true}.
The reply has `output` (what was printed), `value` (of a last expression) and `error` (a traceback).
Code that raises keeps what it did until then, as in any REPL. Code that does not end is ended by
the host, and the agent is as it was before that message.
"""

import ast
import contextlib
import io
import json
import linecache
import traceback

FILE = "<cell>"


def run(names, code):
    """Runs `code` in `names`: what it printed, the value of its last expression, its traceback."""
    printed, value, error = io.StringIO(), None, None
    linecache.cache[FILE] = (len(code), None, code.splitlines(True), FILE)
    try:
        tree = compile(code, FILE, "exec", ast.PyCF_ONLY_AST)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, FILE, "exec"), names)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), FILE, "eval"), names)
    except BaseException as raised:
        # The first frame is this function.
        frames = raised.__traceback__.tb_next
        error = "".join(traceback.format_exception(type(raised), raised, frames))
    shown = None if value is None else repr(value)
    return {"output": printed.getvalue(), "value": shown, "error": error}


async def on_message(ctx, message):
    wanted = json.loads(message)
    conversations = ctx.state.setdefault("conversations", {})
    if wanted.get("forget"):
        return {"forgotten": conversations.pop(wanted["conversation"], None) is not None}
    names = conversations.setdefault(wanted["conversation"], {"__name__": "__main__"})
    return run(names, wanted["code"])
