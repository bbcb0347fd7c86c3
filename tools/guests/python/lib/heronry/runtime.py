"""The agent's side of the guest ABI: what the host's calls do in Python.

Owns: the namespace of the agent's file (`__main__`), one task per message, tracebacks.
Not: the exports themselves (guest.c calls the functions at the end).
R1  every function returns 0, or 1 after `_heronry.fail`: then the host undoes the whole turn.
R2  an exception in the turn that brought the message fails the turn; one in a later turn refuses
    the request and leaves what the other handlers did alone.
R3  a request is answered at most once.
"""

import gc
import inspect
import linecache
import random
import sys
import traceback
import types

import _heronry

from . import _output
from ._context import ctx, from_bytes, to_bytes
from ._errors import Forked
from ._loop import loop

AGENT_FILE = "agent.py"
FORKED = 1  # the argument of restored() in a branch
VALUE = "<value>"  # no identifier, so no name of the agent's
EXEC_SOURCES_MAX = 16
EXERCISE_COUNT = 64
# What most agents do sooner or later, and what the interpreter notes down when it first does it.
EXERCISES = b"None", b"1", b"__builtins__.print(1)", b"""
def _heronry_exercise():
    import collections, dataclasses, json, random, re, traceback

    class Plan:
        kind = "plan"

        def __init__(self, goal, *rest, done=None, **more):
            self.goal, self.done = goal, done or []

        @property
        def size(self):
            return len(self.done) + 1

        def __repr__(self):
            return f"{self.kind} {self.goal!r:>4} {self.size}"

    @dataclasses.dataclass
    class Note:
        text: str
        number: int = 1

    plan = Plan("goal", 1, done=[Note("one")], more=2)
    words = collections.Counter(re.findall("[a-z]+", "one two two"))
    squares = {n: n * n for n in range(40) if n % 2}
    lines = sorted(f"{n}: %d" % square for n, square in squares.items())
    text = json.dumps({"plan": repr(plan), "words": words, "list": [None, True, 1.5, *lines[:2]]})
    json.loads(text)["words"].get("one")
    grouped = collections.defaultdict(list)
    for n, word in enumerate("a b c a".split()):
        grouped[word.upper()].append((n, word[::-1], n / 3 + n // 2, -n % 3, n | 1))
    random.Random(1).choice(list(grouped))
    try:
        with collections.ChainMap() as nothing:
            pass
    except (TypeError, AttributeError) as error:
        traceback.format_exc()
    (lambda *args: [*map(str, args), *zip("ab", {1, 2})])(1, 2)
    return sum(n for n in range(10)), "".join(reversed("abc")).strip().replace("a", "b") in text
_heronry_exercise()
del _heronry_exercise""".strip()

_main = sys.modules["__main__"]
names = _main.__dict__
names.update(ctx=ctx, __file__=AGENT_FILE)
_turn = 0  # the request whose message this call of the host brought, 0 in any other call
_failure = None  # what that request's handler raised
_exec_count = 0


def _trace(error):
    """A traceback without the runtime's own frames."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_HERE):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame))


_HERE = __file__.rpartition("/")[0] + "/"


def _keep_source(filename, source):
    """Lets tracebacks and inspect show the lines of code that is in no file, split when needed."""
    linecache.cache[filename] = (source.__str__,)


def _raised(request, error):
    """What becomes of a request whose handler raised (R2)."""
    global _failure
    if isinstance(error, Forked):
        return
    if request == _turn:
        _failure = error
    else:
        _heronry.refuse(request, _trace(error).encode("utf-8", "backslashreplace"))


def _answer(request, result):
    _heronry.reply(request, to_bytes(result))


async def _answer_later(request, awaited):
    try:
        _answer(request, await awaited)
    except BaseException as error:
        _raised(request, error)


def _evaluated(request, caught):
    """Answers an exec request: what was printed, then the value of a last expression."""
    value = names.pop(VALUE, None)
    if value is not None:
        caught.write(repr(value) + "\n")
    _heronry.reply(request, caught.text().encode("utf-8", "backslashreplace"))


def _raised_in_exec(request, caught, error):
    """Refuses an exec request: what was printed, then the traceback."""
    names.pop(VALUE, None)
    if not isinstance(error, Forked):
        text = caught.text() + _trace(error)
        _heronry.refuse(request, text.encode("utf-8", "backslashreplace"))


def _evaluate(request, code):
    caught = _output.catch_all()
    try:
        exec(code, names)
        _evaluated(request, caught)
    except BaseException as error:
        _raised_in_exec(request, caught, error)
    finally:
        _output.release_all()


async def _evaluate_awaiting(request, code):
    caught, token = _output.catch()
    try:
        await types.FunctionType(code, names)()
        _evaluated(request, caught)
    except BaseException as error:
        _raised_in_exec(request, caught, error)
    finally:
        _output.release(caught, token)


def _finish():
    """Runs the loop until it is between turns; the end of every call of the host."""
    global _failure, _turn
    try:
        loop.run()
        _output.flush()
        if _failure is None:
            return 0
        _heronry.fail(_trace(_failure).encode("utf-8", "backslashreplace"))
        return 1
    finally:
        _failure = None
        _turn = 0


def _define(source, filename):
    """Runs a file in the agent's namespace, at deploy time."""
    text = source.decode("utf-8")
    _keep_source(filename, text)
    try:
        exec(compile(text, filename, "exec", dont_inherit=True), names)
    except BaseException as error:
        _heronry.fail(_trace(error).encode("utf-8", "backslashreplace"))
        return 1
    return _finish()


def _settle():
    """Makes what exists now the template's, for good.

    A page that an agent writes to is its own, so little of the template should change in a turn:
    its code has specialised, no collection visits its objects, nobody counts references to them,
    and new objects lie elsewhere.
    """
    _exercise()
    gc.collect()
    classes = [object]
    known = set(classes)
    for found in classes:
        new = set(type.__subclasses__(found)) - known
        known |= new
        classes.extend(new)
    values = [value for module in list(sys.modules.values()) for value in vars(module).values()]
    _heronry.immortal(gc.get_objects() + classes + values)
    gc.freeze()
    _heronry.settle()


def _exercise():
    """Takes turns that nobody asked for, until the interpreter has specialised their code."""
    global _exec_count
    said = _heronry.reply, _heronry.refuse
    handler = names.get("on_message")

    async def answer(ctx, message):
        return message

    _heronry.reply = _heronry.refuse = _heronry.ignore
    names["on_message"] = answer
    try:
        for _ in range(EXERCISE_COUNT):
            message(b"", 0)
            for code in EXERCISES:
                execute(code, 0)
    finally:
        _heronry.reply, _heronry.refuse = said
        names["on_message"] = handler
        if handler is None:
            del names["on_message"]
        for number in range(_exec_count):
            linecache.cache.pop(f"exec-{number + 1}", None)
        _exec_count = 0


def load(source):
    """Defines the agent from its file."""
    return _define(source, AGENT_FILE)


def warm(source):
    """Runs the warm-up script, or nothing: the last thing before the template is sealed."""
    code = _define(source, "warm.py")
    if code == 0:
        _settle()
    return code


def message(payload, request):
    """Handles one message."""
    global _turn
    handler = names.get("on_message")
    if handler is None:
        _heronry.refuse(request, b"the agent defines no on_message(ctx, message)")
        return 0
    _turn = request
    try:
        result = handler(ctx, from_bytes(payload))
        if inspect.isawaitable(result):
            loop.create_task(_answer_later(request, result))
        else:
            _answer(request, result)
    except BaseException as error:
        _raised(request, error)
    return _finish()


def result(payload, operation, status):
    """Answers an operation that the agent awaits."""
    loop.resolve(operation, status, payload)
    return _finish()


def execute(payload, request):
    """Runs code in the live interpreter."""
    global _exec_count
    _exec_count += 1
    filename = f"exec-{_exec_count}"
    try:
        source = payload.decode("utf-8")
        code = _heronry.compile_exec(source, filename, VALUE)
    except BaseException as error:
        _heronry.refuse(request, _trace(error).encode("utf-8", "backslashreplace"))
        return 0
    _keep_source(filename, source)
    linecache.cache.pop(f"exec-{_exec_count - EXEC_SOURCES_MAX}", None)
    if code.co_flags & inspect.CO_COROUTINE:
        loop.create_task(_evaluate_awaiting(request, code))
    else:
        _evaluate(request, code)
    return _finish()


def restored(why):
    """Makes fresh what must not be shared with the image this one was copied from."""
    ctx.key = _heronry.key()
    random.seed()
    if why == FORKED:
        loop.forked()
    return 0

