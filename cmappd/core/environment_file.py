"""Environment files: NAME=VALUE lines, as systemd's EnvironmentFile= has them (systemd.exec(5)).

Blank lines are nothing, and so are lines that begin with ``#`` or ``;``. Blanks around a name
and a value do not count. A value is one of these:

- unquoted: to the end of the line; a backslash takes away the meaning of the next character,
  and at the end of a line joins the next one to it.
- in single quotes: all as it stands, over as many lines as it takes.
- in double quotes: likewise; a backslash before ``"``, ``\\``, a backquote or ``$`` takes away
  its meaning, before the end of a line it joins the next one, elsewhere it stands for itself.

Quoted pieces that touch each other are one value. The last of two values of a name counts.

This is not a shell: nothing is expanded, neither ``$NAME`` nor ``~`` nor a command. An unquoted
value may have blanks, quotes and ``#`` within, which belong to it, so a comment needs a line of
its own. Blanks around the ``=`` are allowed. ``export`` before a name is, too, which systemd
does not know. What systemd passes over in silence or reads in a way of its own is an error
here: a line without ``=``, a name that is none, a quote that is not closed, and anything but
blanks after a closing quote, which a shell might take for a comment.
"""

import re

_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_BLANK = re.compile(r"[ \t\r]*")
_GAP = re.compile(r"(?:[ \t\r\n]+|[#;][^\n]*)*")
_LEFT = re.compile(r"([^=\n]*)=[ \t\r]*")
_EXPORT = re.compile(r"\Aexport[ \t]+")
_UNQUOTED = re.compile(r"(?:[^\\ \t\r\n]|\\(?:\r?\n|.)|[ \t\r]+(?=[^ \t\r\n]))*", re.DOTALL)
_SINGLE = re.compile("'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(\r?\n|.)", re.DOTALL)
_ESCAPE_IN_QUOTES = re.compile(r'\\(\r?\n|["\\`$])')


def parse(text: str) -> dict[str, str]:
    """The variables of an environment file, in its order.

    Raises ValueError, with the line and what is allowed there.
    """
    if "\0" in text:
        raise _error(text, text.index("\0"), "a NUL character is not allowed in an environment")
    variables: dict[str, str] = {}
    at = _skip(_GAP, text, 0)
    while at < len(text):
        name, at = _name(text, at)
        variables[name], at = _value(text, at)
        at = _skip(_GAP, text, at)
    return variables


def _name(text: str, at: int) -> tuple[str, int]:
    match = _LEFT.match(text, at)
    if match is None:
        raise _error(text, at, "must be NAME=VALUE, blank, or a comment that begins with # or ;")
    name = _EXPORT.sub("", match[1].rstrip(" \t\r"))
    if not _NAME.fullmatch(name):  # not shown: what it is may be a line of somebody's key
        raise _error(
            text, at, "the name before = must be of letters, digits and _, not a digit first"
        )
    return name, match.end()


def _value(text: str, at: int) -> tuple[str, int]:
    """The value that begins here, and where its last line ends."""
    if text[at : at + 1] in ("'", '"'):
        return _quoted(text, at)
    match = _UNQUOTED.match(text, at)
    assert match is not None, "it matches nothing, too"
    end = _skip(_BLANK, text, match.end())
    if text[end : end + 1] == "\\":
        raise _error(text, end, "ends with a backslash, but there is no next line to join")
    return _ESCAPE.sub(_unescaped, match[0]), end


def _quoted(text: str, at: int) -> tuple[str, int]:
    pieces = []
    while (quote := text[at : at + 1]) in ("'", '"') and quote:
        match = (_SINGLE if quote == "'" else _DOUBLE).match(text, at)
        if match is None:
            raise _error(text, at, f"the quote {quote} that begins here is never closed")
        pieces.append(match[1] if quote == "'" else _ESCAPE_IN_QUOTES.sub(_unescaped, match[1]))
        at = match.end()
    end = _skip(_BLANK, text, at)
    if text[end : end + 1] not in ("", "\n"):
        raise _error(
            text,
            end,
            "only blanks may follow a closing quote: put all of the value into quotes, "
            "and a comment on a line of its own",
        )
    return "".join(pieces), end


def _unescaped(match: re.Match[str]) -> str:
    return "" if match[1].endswith("\n") else match[1]


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None, "it matches nothing, too"
    return match.end()


def _error(text: str, at: int, message: str) -> ValueError:
    line = text.count("\n", 0, at) + 1
    return ValueError(f"line {line}: {message}")
