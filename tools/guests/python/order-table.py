"""order-table.py MODULE NAMES OUT: lists the functions in NAMES before all others of the table.

The engine keeps some bytes in every instance for each function that the table lists, in the order
of the list, and writes them when the function is first called through the table. Where the few
hundred that a turn calls are listed one after the other, they take some pages of each agent less.
No function and no slot of the table changes, only the element section's order. MODULE must have
its names; some of those in NAMES may be of another build, but not most.
"""

import sys

ELEMENTS, I32_CONST, END = 9, 0x41, 0x0B


def take_number(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def number(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def signed(value):
    """A table's slot, as i32.const has it."""
    out = bytearray()
    while value >= 0x40:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def sections(module):
    at = 8
    while at < len(module):
        start, kind = at, module[at]
        size, at = take_number(module, at + 1)
        yield kind, start, at, at + size
        at += size


def function_names(module):
    for kind, _, at, end in sections(module):
        length, at = take_number(module, at) if kind == 0 else (0, at)
        if module[at : at + length] != b"name":
            continue
        at += length
        while at < end:
            part = module[at]
            size, at = take_number(module, at + 1)
            if part == 1:
                count, here = take_number(module, at)
                for _ in range(count):
                    function, here = take_number(module, here)
                    length, here = take_number(module, here)
                    yield function, module[here : here + length].decode()
                    here += length
            at += size


def segments(module, at):
    """Runs of functions, each with its first slot."""
    count, at = take_number(module, at)
    for _ in range(count):
        assert module[at] == 0 and module[at + 1] == I32_CONST, "a segment of another form"
        slot, at = take_number(module, at + 2)
        assert module[at] == END, "a slot that is no constant"
        length, at = take_number(module, at + 1)
        functions = []
        for _ in range(length):
            function, at = take_number(module, at)
            functions.append(function)
        yield slot, functions


def ordered(runs, is_hot):
    """The hot functions as runs of their own, then the others."""
    parts = ([], [])
    for slot, functions in runs:
        for place, function in enumerate(functions, slot):
            runs_of = parts[not is_hot(function)]
            if runs_of and runs_of[-1][0] + len(runs_of[-1][1]) == place:
                runs_of[-1][1].append(function)
            else:
                runs_of.append((place, [function]))
    return parts[0] + parts[1]


def main(module_path, names_path, out_path):
    module = open(module_path, "rb").read()
    wanted = set(open(names_path).read().split())
    named = [(function, name) for function, name in function_names(module) if name in wanted]
    hot = {function for function, _ in named}
    found = len({name for _, name in named})
    print(f"{found} of {len(wanted)} functions found")
    assert found * 2 > len(wanted), "most functions are not there: the list is of another build"
    _, start, at, end = next(found for found in sections(module) if found[0] == ELEMENTS)
    runs = ordered(segments(module, at), hot.__contains__)
    body = number(len(runs))
    for slot, functions in runs:
        body += bytes([0, I32_CONST]) + signed(slot) + bytes([END]) + number(len(functions))
        body += b"".join(map(number, functions))
    section = bytes([ELEMENTS]) + number(len(body)) + body
    open(out_path, "wb").write(module[:start] + section + module[end:])


if __name__ == "__main__":
    main(*sys.argv[1:])
