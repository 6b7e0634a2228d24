"""Certificates of the guest that come to their end: where it is said, and when."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cmappd.core.certificate import SOON, date
from cmappd.core.config import Tls
from cmappd.core.messages import Done, Refused, Reload
from cmappd.server.certificates import ending, invalid, load_certificates
from cmappd.server.check import check
from tests.certificates import DAY, Authority, Identity
from tests.server.harness import Client, Guest, wait_for

HOUR = 3600.0


def section(identity: Identity, ca: str, crl: str | None = None) -> Tls:
    return Tls(certificate=identity.certificate, key=identity.key, ca=ca, crl=crl)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki", end=100 * DAY)


def test_each_has_its_end_and_its_warning_before(authority: Authority) -> None:
    guest = authority.guest("guest1", end=200 * DAY)
    crl = authority.crl([], end=6 * DAY)  # for a week: it is spoken of when a third is left
    found = load_certificates(section(guest, authority.ca, crl)).periods
    assert [one.what for one in found] == ["certificate", "ca", "crl"]
    for one, before in zip(found, (SOON, SOON, 7 * 24 * HOUR / 3), strict=True):
        when = date(one.end)
        for now, wrong, soon in (
            (one.start - HOUR, f"{one.what} {one.path} is not valid before", ""),
            (one.start + HOUR, "", ""),
            (one.end - before - HOUR, "", ""),
            (one.end - before + HOUR, "", f"{one.what} {one.path} expires on {when}, in "),
            (one.end + HOUR, f"{one.what} {one.path} expired on {when}: no manager can", ""),
        ):
            assert [text[: len(wrong)] for text in invalid([one], now)] == [wrong] * bool(wrong)
            assert [text[: len(soon)] for text in ending([one], now)] == [soon] * bool(soon)


def test_of_several_authorities_the_last_counts_and_of_lists_the_first(tmp_path: Path) -> None:
    new, old = (Authority(tmp_path / str(n), end=n * 100 * DAY) for n in (2, 1))
    crls = [new.crl([], end=9 * DAY), old.crl([], end=5 * DAY)]
    both = {
        "ca": [Path(one.ca).read_text() for one in (old, new)],
        "crl": [Path(one).read_text() for one in crls],
    }
    for name, texts in both.items():
        (tmp_path / name).write_text("".join(texts))
        (tmp_path / name).chmod(0o600)
    identity = new.guest("guest1")
    both_of = load_certificates(section(identity, str(tmp_path / "ca"), str(tmp_path / "crl")))
    of_new = load_certificates(section(identity, new.ca, crls[0]))
    of_old = load_certificates(section(identity, old.ca, crls[1]))
    assert both_of.periods[1].end == of_new.periods[1].end
    assert both_of.periods[2].end == of_old.periods[2].end


def test_what_verifies_managers_is_told_apart_from_what_is_shown_to_them(
    authority: Authority,
) -> None:
    one, other = authority.guest("guest1"), authority.guest("guest1")
    crl = authority.crl([])
    first = load_certificates(section(one, authority.ca))
    renewed = load_certificates(section(other, authority.ca))
    listed = load_certificates(section(one, authority.ca, crl))
    assert first.trust == renewed.trust
    assert first.content != renewed.content
    assert first.trust != listed.trust


# The program ---------------------------------------------------------------------------


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path)
    made.authority = Authority(tmp_path / "other", end=90 * DAY)
    yield made
    made.close()


def certify(guest: Guest, start: timedelta, end: timedelta) -> None:
    """Give the guest a certificate for that time."""
    guest.identity = guest.authority.guest("guest1", start=start, end=end)
    guest.write("")


def list_revoked(guest: Guest, start: timedelta, end: timedelta) -> str:
    """Give it a revocation list for that time, with nobody on it."""
    crl = guest.authority.crl([], start, end)
    text = guest.config.read_text().replace("[tls]\n", f'[tls]\ncrl = "{crl}"\n')
    guest.config.write_text(text)
    return crl


def problems(admin: Client) -> str:
    """What status says of the service."""
    return admin.ask_status().text


def test_a_certificate_that_has_expired_is_a_problem_wherever_people_look(guest: Guest) -> None:
    certify(guest, -3 * DAY, -DAY)
    said = f"certificate {guest.identity.certificate} expired on "
    _, found, _ = check(str(guest.config))
    assert any(said in line for line in found)
    with guest.started():
        guest.wait_log(f"error configuration: {said}")
        admin = guest.control()
        assert said in problems(admin)
        reply = admin.ask(Reload(admin.next()))
        assert isinstance(reply, Refused)
        assert said in reply.text
        certify(guest, -DAY, 80 * DAY)
        guest.wait_log("all problems are mended")
        assert problems(admin) == ""
        assert isinstance(admin.ask(Reload(admin.next())), Done)
        guest.manager()


def test_so_is_a_revocation_list(guest: Guest) -> None:
    certify(guest, -DAY, 80 * DAY)
    crl = list_revoked(guest, -3 * DAY, -DAY)
    _, found, _ = check(str(guest.config))
    assert any(f"tls: crl {crl} expired on " in line for line in found)
    with guest.started():
        assert f"crl {crl} expired on " in problems(guest.control())


def test_one_that_expires_while_it_is_used_is_noticed(guest: Guest) -> None:
    certify(guest, -DAY, timedelta(seconds=6))
    with guest.started():
        admin = guest.control()
        assert "expired" not in problems(admin)
        assert "expires on" in guest.log()
        wait_for(lambda: "expired on" in problems(admin))
        guest.wait_log("error configuration: certificate .* expired on")
        assert guest.log().count("expired on") == 1


def test_one_that_ends_soon_is_a_warning_and_no_problem(guest: Guest) -> None:
    certify(guest, -300 * DAY, 10 * DAY)
    said = f"certificate {guest.identity.certificate} expires on "
    _, found, notes = check(str(guest.config))
    assert found == []
    assert said in notes
    assert ", in 10 days: put a new one there and reload" in notes
    with guest.started():
        admin = guest.control()
        assert problems(admin) == ""
        for _ in range(3):
            assert isinstance(admin.ask(Reload(admin.next())), Done)
        assert guest.log().count(f"warning {said}") == 1
