"""The clients: small programs, which import neither asyncio nor pydantic nor logging.

For the same reason msgspec is imported here first, without typing_extensions.

msgspec prefers typing_extensions where it is installed, and is content with typing. Hundreds
of cmappmgr run on one host, and typing_extensions brings inspect, ast, dis and tokenize:
1.5 MB and a fifth of the start of each of them.
"""

import sys

_absent = "typing_extensions" not in sys.modules
if _absent:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # how import is told "no"
try:
    import msgspec as msgspec
finally:
    if _absent:
        del sys.modules["typing_extensions"]
