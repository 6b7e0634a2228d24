"""The signals of Linux by number, as on x86 and ARM (signal(7)).

Written down because the numbers on the wire are the guest's, and the core asks no system.
"""

from collections.abc import Mapping

_WORDS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP "
    "TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
NAMES: Mapping[int, str] = {number: f"SIG{word}" for number, word in enumerate(_WORDS.split(), 1)}

KILL = 9


def text(number: int) -> str:
    """The signal for people: "SIGKILL (signal 9)"; real-time signals have only a number."""
    return f"{NAMES[number]} (signal {number})" if number in NAMES else f"signal {number}"
