"""What the agent for Pacemaker says of itself."""

import re
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.pacemaker.ocf import (
    AGENT,
    NEEDS,
    OK,
    SCHEMA,
    TESTER,
    Agent,
    Make,
)

pytestmark = NEEDS


def schema_1_0() -> list[str]:
    return ["--valid"]


def schema_1_1() -> list[str]:
    if not SCHEMA.exists():
        pytest.skip("needs the schema of OCF 1.1 (pcs)")
    return ["--nowarning", "--relaxng", str(SCHEMA)]


@pytest.mark.skipif(shutil.which("xmllint") is None, reason="needs xmllint (libxml2-utils)")
@pytest.mark.parametrize("schema", [schema_1_0, schema_1_1])
def test_the_metadata_is_valid(make: Make, schema: Callable[[], list[str]]) -> None:
    code, said = make()("meta-data")
    done = subprocess.run(
        ["xmllint", "--noout", *schema(), "-"],
        cwd="/usr/share/resource-agents",  # where its document type is
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (code, done.returncode) == (OK, 0), done.stderr


def test_the_metadata_has_every_parameter_that_is_used_and_every_action(make: Make) -> None:
    tree = ET.fromstring(make()("meta-data")[1])
    used = set(re.findall(r"OCF_RESKEY_([a-z_]+)", AGENT.read_text()))
    named = {str(each.get("name")) for each in tree.iter("parameter")}
    assert named == {name for name in used if not name.endswith("_default")}
    actions = {str(each.get("name")) for each in tree.iter("action")}
    usage = make()("usage")[1]
    assert actions == set(usage.partition("{")[2].partition("}")[0].split("|"))


@pytest.mark.skipif(not TESTER.exists(), reason="needs ocf-tester (resource-agents)")
@pytest.mark.skipif(shutil.which("xmllint") is None, reason="needs xmllint (libxml2-utils)")
def test_ocf_tester_passes(agent: Agent) -> None:
    pairs = [f"{key}={value}" for key, value in agent.parameters.items()]
    options = [word for pair in pairs for word in ("-o", pair)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "app"  # where anybody may read it, which is looked for
        copy.parent.chmod(0o755)
        shutil.copy(AGENT, copy)
        done = subprocess.run(
            [TESTER, "-n", "db", *options, copy],
            env=agent.environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed all tests" in done.stdout
