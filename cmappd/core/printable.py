"""Text of somebody else, such that it shows as it is: one line, which moves no cursor.

Whatever a log, a table or a terminal is given by an application, a guest, a manager or a peer goes
through here; but for the status text of an application, in which `sd_notify` replaces what does not
print, before it goes anywhere. A backslash stays one: what is escaped is what does not print.
"""


def printable(text: str) -> str:
    r"""The text on one line, with what does not print escaped: a newline as \n, ESC as \x1b."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
