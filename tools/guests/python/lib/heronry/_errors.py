"""What an awaited operation raises when it does not succeed."""


class Refused(Exception):
    """The host or another agent refused: `code` is a word such as BUSY, `text` says why."""

    def __init__(self, code, text=""):
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self):
        return f"{self.code} {self.text}".rstrip()


class Forked(Exception):
    """The awaited operation belongs to the agent that this one was forked from.

    It will be answered there, once, and never here. A handler that does not catch this ends
    quietly: its message is the parent's, too.
    """
