"""A program becomes another one, and gives it what it has open."""

import json
import os
import subprocess
import sys
from pathlib import Path

# Opens a file under thousands of names, and becomes a program that says what it was given.
BECOMES = """
import os, sys
from cmappd.system.handover import execute

fd = os.open(sys.argv[1], os.O_RDONLY)
execute((sys.executable, *sys.argv[2:]), {f"application-{n}": [fd] for n in range(20_000)}, 512)
"""
TELLS = """
import json, os
from cmappd.system.handover import VARIABLE, receive

before = VARIABLE in os.environ
given = receive()
(fd,) = given.take("application-19999")
text = os.read(fd, 100).decode()
rest = sum(given.has(f"application-{n}") for n in range(20_000))
again = receive().has("application-0")
inheritable = os.get_inheritable(fd)
facts = before, VARIABLE in os.environ, text, rest, again, inheritable, given.open_files
print(json.dumps([os.getpid(), *facts]))
"""


def test_any_number_of_descriptors_is_passed_once_and_to_this_process_only(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.write_text("still open")
    command = [sys.executable, "-c", BECOMES, str(held), "-c", TELLS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=30)
    facts = json.loads(output)
    assert facts == [process.pid, True, False, "still open", 19_999, False, False, 512]


def test_what_is_meant_for_another_process_is_nobodys() -> None:
    """A child has the variable of its parent, and none of its descriptors."""
    program = "from cmappd.system.handover import receive; print(receive().open_files)"
    environment = {**os.environ, "CMAPPD_HANDOVER": f"{os.getpid()} 7"}
    output = subprocess.check_output([sys.executable, "-c", program], env=environment, timeout=30)
    assert output == b"None\n"
