"""Modules of the standard library that the sandbox cannot have, as far as others import them.

Owns: the modules `_socket` and `select`, whose functions say what is missing; the builtins that
site.py would add.  Not: asyncio (`_loop.py`).
S1  importing socket, selectors, ssl's users, subprocess or threading works; using them raises.
"""

import _sitebuiltins
import _thread
import builtins
import os
import sys
import types

NO_SOCKETS = "no sockets in the sandbox; use ctx.http, or ctx.call for other agents"
NO_THREADS = "no threads in the sandbox; use asyncio tasks"
NO_PROCESSES = "no processes in the sandbox"


def _refusing(error, text):
    def refuse(*args, **kwargs):
        raise error(text)

    return refuse


class _Socket:
    """What socket.socket is derived from; it cannot be made."""

    __slots__ = ()

    def __init__(self, *args, **kwargs):
        raise OSError(NO_SOCKETS)

    def _missing(self, *args, **kwargs):
        raise OSError(NO_SOCKETS)

    accept = bind = close = connect = listen = recv = send = sendall = shutdown = _missing


def _socket_module():
    module = types.ModuleType("_socket")
    constants = dict(
        AF_UNSPEC=0, AF_INET=1, AF_INET6=2, AF_UNIX=3, SOCK_DGRAM=5, SOCK_STREAM=6, SOL_SOCKET=1,
        SO_REUSEADDR=2, SO_KEEPALIVE=9, SO_ERROR=4, SO_TYPE=3, SO_BROADCAST=6, SOMAXCONN=128,
        IPPROTO_IP=0, IPPROTO_TCP=6, IPPROTO_UDP=17, IPPROTO_IPV6=41, IPV6_V6ONLY=26,
        TCP_NODELAY=1, SHUT_RD=1, SHUT_WR=2, SHUT_RDWR=3, MSG_PEEK=1, AI_PASSIVE=1,
        AI_CANONNAME=2, AI_NUMERICHOST=4, NI_NUMERICHOST=1, NI_NUMERICSERV=2, EAI_NONAME=-2,
        EAI_FAMILY=-6, INADDR_ANY=0, INADDR_LOOPBACK=0x7F000001, has_ipv6=False, CAPI=None,
    )
    functions = (
        "getaddrinfo", "getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr",
        "gethostname", "getservbyname", "getservbyport", "getprotobyname", "socketpair", "dup",
        "close", "if_nameindex",
    )
    module.__dict__.update(constants)
    module.__dict__.update({name: _refusing(OSError, NO_SOCKETS) for name in functions})
    module.error = OSError
    module.timeout = TimeoutError
    module.gaierror = type("gaierror", (OSError,), {"__module__": "socket"})
    module.herror = type("herror", (OSError,), {"__module__": "socket"})
    module.socket = module.SocketType = _Socket
    module.getdefaulttimeout = lambda: None
    module.setdefaulttimeout = lambda seconds: None
    module.htons = module.ntohs = lambda value: (value & 0xFF) << 8 | value >> 8
    module.htonl = module.ntohl = lambda value: int.from_bytes(value.to_bytes(4, "little"), "big")
    module.inet_aton = lambda text: bytes(int(part) for part in text.split("."))
    module.inet_ntoa = lambda packed: ".".join(str(part) for part in packed)
    return module


def _select_module():
    module = types.ModuleType("select")
    module.error = OSError
    module.select = _refusing(OSError, NO_SOCKETS)
    return module


def install():
    """Puts the stubs where `import` finds them."""
    sys.modules["_socket"] = _socket_module()
    sys.modules["select"] = _select_module()
    _thread.start_new_thread = _refusing(RuntimeError, NO_THREADS)
    builtins.exit = builtins.quit = _sitebuiltins.Quitter("exit", "the end of the input")
    builtins.help = _sitebuiltins._Helper()
    os.system = os.popen = _refusing(OSError, NO_PROCESSES)
