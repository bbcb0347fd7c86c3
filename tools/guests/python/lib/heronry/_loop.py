"""The event loop of an agent: asyncio on top of the host's sleeps and results.

Owns: the ready queue, timers, the table of operations the host has not answered.
Not: what an operation means (`_context.py`), who runs the loop (`runtime.py`).
L1  the loop is always the running loop: code at any place may create tasks and futures.
L2  run() returns only when no callback is ready; then the agent is between turns.
L3  at most one host sleep is open per earlier deadline: a cancelled timer asks for nothing.
L4  an answer to an operation that nobody awaits any more is dropped.
L5  in a branch the timers that it was forked with end with the host sleeps that they waited for:
    all of them, or none when timers are kept.
"""

import asyncio
import heapq
import sys
import time
import traceback
from asyncio import base_events, events, futures, tasks

import _heronry

from ._errors import Forked, Refused

OK, REFUSED, FORKED, RESTORED = range(4)
SLEEP_NS_MAX = 2**63 - 1
# What the host did not even take, by the number that it gives instead of an operation's.
DENIED = {
    -1: ("LIMIT", "one turn asked for too much, or too many operations are open; await some first"),
    -2: ("BADVALUE", "the host takes no such key, label or number"),
    -3: ("LIMIT", "the payload is longer than net.payload_bytes_max, or than one turn may leave"),
}


class Loop(base_events.BaseEventLoop):
    """asyncio's loop without a selector: it never waits, it returns to the host."""

    def __init__(self):
        super().__init__()
        self._thread_id = 1
        self._open = {}  # operation -> (future, what turns the payload into a result)
        self._alarms = {}  # operation of a host sleep -> its deadline
        self._inherited = ()  # timers that were there at a fork (L5)

    # -- running

    def run(self):
        """Runs what is ready until nothing is."""
        ready = self._ready
        while ready:
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
        if self._scheduled:
            self._arm()

    def is_running(self):
        return True

    def run_forever(self):
        raise RuntimeError("the agent's loop always runs; await instead")

    def run_until_complete(self, future):
        raise RuntimeError("the agent's loop always runs; await the coroutine instead")

    def stop(self):
        raise RuntimeError("the agent's loop cannot be stopped")

    def close(self):
        raise RuntimeError("the agent's loop cannot be closed")

    def _process_events(self, event_list):
        pass

    def _write_to_self(self):
        pass

    def run_in_executor(self, executor, func, *args):
        """There are no threads: runs `func` at once, in place."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def getaddrinfo(self, *args, **kwargs):
        raise OSError("no sockets in the sandbox; use ctx.http")

    async def create_connection(self, *args, **kwargs):
        raise OSError("no sockets in the sandbox; use ctx.http")

    async def create_server(self, *args, **kwargs):
        raise OSError("no sockets in the sandbox; messages come to on_message")

    async def subprocess_exec(self, *args, **kwargs):
        raise OSError("no processes in the sandbox")

    async def subprocess_shell(self, *args, **kwargs):
        raise OSError("no processes in the sandbox")

    def call_exception_handler(self, context):
        message = context.get("message") or "unhandled exception in the event loop"
        error = context.get("exception")
        lines = traceback.format_exception(error) if error is not None else []
        print(message, "".join(lines), sep="\n", file=sys.stderr)

    # -- timers

    def _arm(self):
        """Keeps a host sleep open that ends no later than the earliest live timer (L3)."""
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        if not scheduled:
            return
        deadline = scheduled[0]._when
        if all(deadline < alarm for alarm in self._alarms.values()):
            alarm = _heronry.sleep(_nanoseconds(deadline - self.time()))
            # One that the host did not take is asked for again at the end of the next turn.
            if alarm > 0:
                self._alarms[alarm] = deadline

    def forked(self):
        """This is a branch, before it is told whether its timers are kept."""
        self._inherited = tuple(self._scheduled)

    def _ring(self, operation, status):
        """A host sleep ended: makes the timers ready that are due."""
        deadline = self._alarms.pop(operation)
        if status == FORKED:
            for timer in self._inherited:
                timer.cancel()
            self._inherited = ()
            return
        self._inherited = ()
        scheduled = self._scheduled
        now = max(self.time(), deadline)
        while scheduled and (scheduled[0]._when <= now or scheduled[0]._cancelled):
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            if timer._cancelled:
                self._timer_cancelled_count -= 1
            else:
                self._ready.append(timer)

    # -- operations of the host

    def operation(self, number, convert):
        """A future for an operation that the host will answer; raises what it did not take."""
        if number < 0:
            raise Refused(*DENIED[number])
        future = futures.Future(loop=self)
        self._open[number] = (future, convert)
        return future

    def resolve(self, number, status, payload):
        """The host's answer to an operation, exactly once."""
        if number in self._alarms:
            return self._ring(number, status)
        future, convert = self._open.pop(number, (None, None))
        if future is None or future.done():
            return  # L4
        if status == REFUSED:
            code, _, text = payload.decode("utf-8", "replace").partition(" ")
            future.set_exception(Refused(code, text))
        elif status == FORKED:
            future.set_exception(Forked("the awaited operation belongs to the agent forked from"))
        else:
            try:
                future.set_result(convert(payload, status))
            except Exception as error:
                future.set_exception(error)


def _nanoseconds(seconds):
    """What the host takes for a time that is given in seconds."""
    return SLEEP_NS_MAX if seconds >= SLEEP_NS_MAX / 1e9 else max(0, round(seconds * 1e9))


async def sleep(delay, result=None):
    """asyncio.sleep on the host's timers."""
    if delay <= 0:
        await tasks.__sleep0()
    else:
        operation = _heronry.sleep(_nanoseconds(delay))
        await loop.operation(operation, lambda payload, status: None)
    return result


def _no_blocking(seconds):
    """time.sleep: waiting in place would hold up every agent of the shard."""
    if seconds > 0:
        raise RuntimeError("time.sleep would hold up the shard; use await ctx.sleep(seconds)")


loop = Loop()
events._set_running_loop(loop)
asyncio.sleep = tasks.sleep = sleep
time.sleep = _no_blocking
