import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmappd.core.url import MAX_LENGTH, Url, parse_url

LABEL = f"{'a' * 63}"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8080/healthz", Url("http", "127.0.0.1", 8080, "/healthz")),
        ("https://[::1]:8443/", Url("https", "::1", 8443, "/")),
        ("http://localhost", Url("http", "localhost", 80, "/")),
        ("https://localhost", Url("https", "localhost", 443, "/")),
        ("HTTP://Db-1.Example.:080/A?b=/c?d", Url("http", "db-1.example.", 80, "/A?b=/c?d")),
        ("http://my_app?deep=1", Url("http", "my_app", 80, "/?deep=1")),
        ("http://h//a/../b%20c", Url("http", "h", 80, "//a/../b%20c")),
        ("http://[FD00:0:0:0:0:0:0:1]/", Url("http", "fd00::1", 80, "/")),
        (f"http://{LABEL}.{LABEL}:65535", Url("http", f"{LABEL}.{LABEL}", 65535, "/")),
    ],
)
def test_urls_are_read(text: str, url: Url) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/healthz",
        "localhost:8080",
        "//localhost/",
        "http:/localhost/",
        "http:localhost",
        "ftp://localhost/",
        "unix:///run/app.sock",
        "http://",
        "http:///healthz",
        "http://:80/",
        "http://a..b/",
        "http://.a/",
        "http://-a/",
        "http://a:/",
        "http://a:0/",
        "http://a:65536/",
        "http://a:+80/",
        "http://a:80:80/",
        "http://::1/",
        "http://[::1/",
        "http://[::1]x/",
        "http://[]/",
        "http://[127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        f"http://{LABEL}a/",
        f"http://{'.'.join([LABEL] * 4)}/",
        "http://a\\b/",
        "http://a b/",
        "http://a/b c",
        "http://a/b\nHost: c",
        "http://a/\t",
        " http://a/",
        "http://a/\n",
        "http://b\u00fccher.example/",
        "http://a/\u00fc",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a URL such as ") as caught:
        parse_url(text)
    allowed = '"http://127.0.0.1:8080/healthz" or "https://[::1]:8443/"'
    assert str(caught.value).startswith(f"must be a URL such as {allowed}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("http://me:secret@a/", "must not have a user or a password"),
        ("http://a@b/", "must not have a user or a password"),
        ("http://a/#top", "must not have a fragment"),
        ("http://a/" + "b" * MAX_LENGTH, "must be at most 2000 characters"),
        ("http://a:99999/", "with a port from 1 to 65535"),
        ("http://[::1%25lo]/", "must be an IPv6 address without a zone"),
        ("http://a_b..c/", "with the name or address of a host"),
        ("http://a/b c", "written as %20"),
    ],
)
def test_the_sentence_says_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("http://a/", "a"),
        ("http://a:80/", "a"),
        ("https://a:443/", "a"),
        ("https://a:80/", "a:80"),
        ("http://[::1]/", "[::1]"),
        ("http://[::1]:8080/", "[::1]:8080"),
    ],
)
def test_the_authority_leaves_the_usual_port_out(text: str, authority: str) -> None:
    assert parse_url(text).authority == authority


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/login", "http://a:8080/login"),
        ("login?next=1", "http://a:8080/x/login?next=1"),
        ("../up", "http://a:8080/up"),
        ("?page=2", "http://a:8080/x/y?page=2"),
        ("//b/c", "http://b/c"),
        ("https://a/x#part", "https://a/x"),
        ("HTTP://[::1]:81", "http://[::1]:81/"),
        ("", "http://a:8080/x/y?z"),
    ],
)
def test_locations_lead_on(location: str, leads_to: str) -> None:
    assert str(parse_url("http://a:8080/x/y?z").join(location)) == leads_to


@pytest.mark.parametrize(
    "location",
    ["ftp://a/", "file:///etc/passwd", "http://[::1", "http://[x]/", "mailto:a", "/\u00fc"],
)
def test_locations_that_lead_nowhere_are_refused(location: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a URL such as"):
        parse_url("http://a/").join(location)


def outcome(read: Callable[[], Url]) -> tuple[Url | None, str]:
    """The URL, or the sentence that refuses it; anything else that is raised is a defect."""
    try:
        return read(), ""
    except ValueError as error:
        return None, str(error)


HOSTS = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,10}){0,3}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
TARGETS = st.text(alphabet=sorted({chr(code) for code in range(33, 127)} - {"#"}), max_size=40)


@given(st.sampled_from(["http", "https"]), HOSTS, st.integers(1, 65535), TARGETS)
def test_every_part_is_found_again(scheme: str, host: str, port: int, target: str) -> None:
    url = parse_url(f"{scheme}://{host}:{port}/{target}")
    assert (url.scheme, url.host, url.port) == (scheme, host.strip("[]"), port)
    assert url.target == f"/{target}"
    assert parse_url(str(url)) == url


NEARLY = st.text(alphabet=f"http://[]:@?#%. {string.digits}abé\n\\", max_size=30)


@given(st.one_of(st.text(), NEARLY, NEARLY.map(lambda text: f"http://{text}")))
def test_a_url_is_read_or_refused(text: str) -> None:
    url, refusal = outcome(lambda: parse_url(text))
    if url is None:
        assert refusal.startswith("must ")
        return
    assert url.host
    assert 0 < url.port < 65536
    assert f"{url.authority}{url.target}".isascii()
    assert not set(f"{url.authority}{url.target}") & set(" \t\r\n")
    assert parse_url(str(url)) == url


@given(st.one_of(st.text(), NEARLY))
def test_a_location_is_followed_or_refused(location: str) -> None:
    url, refusal = outcome(lambda: parse_url("https://[::1]:8443/a/b?c").join(location))
    assert refusal.startswith("must ") if url is None else parse_url(str(url)) == url
