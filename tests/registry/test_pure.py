"""Decisions without I/O: hosts, retries, what failures mean, proxies, logins."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from cri_imaged.errors import ConfigError
from cri_imaged.oci.authority import canonical_authority
from cri_imaged.ports import Credentials
from cri_imaged.registry.auth.login import ANONYMOUS, Login
from cri_imaged.registry.auth.scope import LoginScope
from cri_imaged.registry.failures import Kind, most_telling
from cri_imaged.registry.hosts.host import Host, TlsSettings, default_host
from cri_imaged.registry.http.addresses import Reach, reach
from cri_imaged.registry.http.proxies import Proxies
from cri_imaged.registry.patience import Patience, Watch
from cri_imaged.registry.redaction import redact
from cri_imaged.registry.retry import RetryPolicy, parse_retry_after
from tests.support.leaks import MARK
from tests.support.registry import encoded

# --- hosts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "host"),
    [
        ("docker.io", Host("https", "registry-1.docker.io")),
        ("quay.io", Host("https", "quay.io")),
        ("10.0.0.1:5000", Host("https", "10.0.0.1:5000")),
        ("localhost:80", Host("http", "localhost:80")),
        ("localhost", Host("https", "localhost", tls=TlsSettings(skip_verify=True))),
        (
            "127.9.9.9:5000",
            Host("https", "127.9.9.9:5000", tls=TlsSettings(skip_verify=True), plain_fallback=True),
        ),
        (
            "[::1]:5000",
            Host("https", "[::1]:5000", tls=TlsSettings(skip_verify=True), plain_fallback=True),
        ),
        ("localhost.example:5000", Host("https", "localhost.example:5000")),
    ],
)
def test_hosts_of_registries_without_configuration(registry: str, host: Host) -> None:
    assert default_host(registry) == host


@pytest.mark.parametrize(
    ("authority", "registry", "proxy"),
    [
        ("registry-1.docker.io", "docker.io", False),
        ("quay.io", "quay.io", False),
        ("mirror.example", "docker.io", True),
        ("registry-1.docker.io", "quay.io", True),
    ],
)
def test_only_hosts_other_than_the_registry_are_told_its_name(
    authority: str, registry: str, proxy: bool
) -> None:
    assert Host("https", authority).is_proxy_for(registry) is proxy


@pytest.mark.parametrize(
    ("authority", "scheme", "canonical"),
    [
        ("Quay.IO", "https", "quay.io"),
        ("quay.io:443", "https", "quay.io"),
        ("quay.io:80", "https", "quay.io:80"),
        ("quay.io:80", "http", "quay.io"),
        ("quay.io:0443", "https", "quay.io"),
        ("quay.io:05000", "https", "quay.io:5000"),
        ("quay.io:0", "https", "quay.io:0"),
        ("[::1]:443", "https", "[::1]"),
        ("[0:0::0001]:5000", "https", "[::1]:5000"),
        ("[::FFFF:7f00:1]:5000", "https", "127.0.0.1:5000"),
        ("[::g]:5000", "https", "[::g]:5000"),
        ("index.docker.io", "https", "docker.io"),
        ("registry-1.docker.io:443", "https", "docker.io"),
    ],
)
def test_authorities_are_compared_in_canonical_form(
    authority: str, scheme: str, canonical: str
) -> None:
    assert canonical_authority(authority, scheme) == canonical


@pytest.mark.parametrize(
    ("key", "repository", "covered"),
    [
        ("r.example", "team/app", True),
        ("https://somebody@r.example/v1/", "team/app", True),
        ("r.example/team", "team/app", True),
        ("r.example/team", "team", True),
        ("r.example/team", "teammates/app", False),
        ("r.example/team/app", "team", False),
        ("somebody@other.example", "team/app", False),
    ],
)
def test_a_login_is_for_a_host_or_for_what_is_below_a_path(
    key: str, repository: str, covered: bool
) -> None:
    assert LoginScope.of(key).covers(Host("https", "r.example"), repository) is covered


# --- retries --------------------------------------------------------------------------------

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("9" * 4000, 9999999999.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=60))
def test_any_retry_after_is_survived(value: str) -> None:
    found = parse_retry_after(value, NOW)
    assert found is None or found >= 0


def test_backoff_doubles_with_jitter_and_is_capped() -> None:
    policy = RetryPolicy(5, 60.0, base_seconds=1.0, longest_backoff_seconds=4.0)
    assert [policy.delay(failures, None, 0.0) for failures in (1, 2, 3, 4)] == [0.5, 1, 2, 2]
    assert policy.delay(3, None, 0.5) == 3.0


def test_a_wait_that_was_asked_for_is_obeyed_up_to_half_the_budget() -> None:
    policy = RetryPolicy(5, 60.0, base_seconds=1.0)
    assert policy.delay(1, 12.0, 0.0) == 12.0
    assert policy.delay(1, 21_600.0, 0.0) == 30.0


def test_a_wait_that_is_over_already_is_no_leave_to_come_back_at_once() -> None:
    policy = RetryPolicy(5, 60.0, base_seconds=1.0)
    assert [policy.delay(failures, 0.0, 0.0) for failures in (1, 2, 3)] == [0.5, 1, 2]
    assert policy.delay(1, 0.0, 0.75) == 0.875


# --- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "telling"),
    [
        ([Kind.NOT_FOUND], Kind.NOT_FOUND),
        ([Kind.NOT_FOUND, Kind.NOT_FOUND], Kind.NOT_FOUND),
        ([Kind.UNREACHABLE, Kind.NOT_FOUND], Kind.NOT_FOUND),
        ([Kind.NOT_FOUND, Kind.UNREACHABLE], Kind.UNREACHABLE),
        ([Kind.NOT_FOUND, Kind.UNAUTHENTICATED], Kind.UNAUTHENTICATED),
        ([Kind.UNAUTHENTICATED, Kind.UNREACHABLE], Kind.UNAUTHENTICATED),
        ([Kind.CORRUPT, Kind.NOT_FOUND], Kind.NOT_FOUND),
        ([Kind.NOT_FOUND, Kind.CORRUPT], Kind.CORRUPT),
        ([Kind.CORRUPT, Kind.UNREACHABLE], Kind.UNREACHABLE),
    ],
)
def test_the_most_telling_answer(kinds: list[Kind], telling: Kind) -> None:
    assert most_telling(kinds) is telling


# --- patience -------------------------------------------------------------------------------


def test_silence_is_borne_as_long_as_the_stall_timeout_or_less() -> None:
    watch = Watch(Patience(stall_timeout=30.0, min_rate=0))
    assert (watch.limit(), watch.limit(50.0), watch.limit(5.0)) == (30.0, 30.0, 5.0)


def test_the_rate_counts_over_whole_windows() -> None:
    watch = Watch(Patience(stall_timeout=10.0, min_rate=100))
    watch.heard(10, 9.0)
    assert not watch.too_slow()
    watch.heard(10, 1.0)
    assert watch.too_slow()
    watch.heard(2000, 10.0)
    assert not watch.too_slow()


# --- proxies --------------------------------------------------------------------------------

PROXY = {"HTTP_PROXY": f"http://u:{MARK}@proxy.example:3128", "https_proxy": "proxy.example:3129"}


@pytest.mark.parametrize(
    ("no_proxy", "url", "port"),
    [
        ("", "http://a.example/", 3128),
        ("", "https://a.example/", 3129),
        ("", "https://localhost:5000/", None),
        ("", "https://[::1]:5000/", None),
        ("", "https://127.3.3.3/", None),
        ("*", "https://a.example/", None),
        ("a.example", "https://a.example/", None),
        ("a.example", "https://sub.a.example/", None),
        ("a.example", "https://nota.example/", 3129),
        (".a.example", "https://sub.a.example/", None),
        (".a.example", "https://a.example/", 3129),
        ("*.a.example", "https://sub.a.example/", None),
        ("A.Example", "https://a.EXAMPLE/", None),
        ("a.example:443", "https://a.example/", None),
        ("a.example:444", "https://a.example/", 3129),
        ("10.0.0.0/8, 192.168.0.0/16", "https://192.168.3.4:5000/", None),
        ("10.0.0.0/8", "https://11.0.0.1/", 3129),
        ("10.1.2.3", "https://10.1.2.3/", None),
        ("fd00::/8", "https://[fd00::5]:5000/", None),
        ("fd00::5", "https://[fd00:0::5]:5000/", None),
        ("[fd00::5]:5000", "https://[fd00::5]:5000/", None),
        ("bad/entry,a.example", "https://a.example/", None),
    ],
)
def test_proxies(no_proxy: str, url: str, port: int | None) -> None:
    proxy = Proxies.from_environment({**PROXY, "NO_PROXY": no_proxy}).proxy_for(URL(url))
    assert (proxy.port if proxy else None) == port


@pytest.mark.parametrize(
    "value", [f"ftp://u:{MARK}@p.example", f"http://u:{MARK}@", f"http://{MARK}@["]
)
def test_a_proxy_that_cannot_be_used_is_an_error(value: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        Proxies.from_environment({"HTTPS_PROXY": value})


# --- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
        "2002:0a00:0001::",
        "224.0.0.1",
        "fec0::1",
        "64:ff9b:1::a00:1",
        "::ffff:0:a00:1",
        "4000::1",
    ],
)
def test_private_addresses(address: str) -> None:
    assert reach(address) is not Reach.PUBLIC


@pytest.mark.parametrize(
    "address",
    [
        *("127.1", "0x7f000001", "localhost.", "db.localhost", "0", "::ffff:127.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b:1::a9fe:a9fe", "::ffff:0:7f00:1", "2002:7f00:1::"),
        *("::", "::7f00:1", "0.1.2.3", "169.254.169.254%eth0"),
        *("fe80::1%eth0", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"),
    ],
)
def test_this_node_its_link_and_its_clouds_metadata(address: str) -> None:
    assert reach(address) is Reach.LOCAL


@pytest.mark.parametrize("address", ["9.9.9.9", "2606:4700::1111", "registry.example"])
def test_other_addresses(address: str) -> None:
    assert reach(address) is Reach.PUBLIC


# --- logins ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "login"),
    [
        ({"username": "u", "password": "p", "identitytoken": "i"}, Login("u", "p")),
        ({"identitytoken": "i", "auth": encoded("u:p")}, Login(identity_token="i")),
        ({"auth": encoded("u:p:q")}, Login("u", "p:q")),
        ({"auth": encoded("u:p\0\0")}, Login("u", "p")),
        ({"auth": f" {encoded('u:p')[:3]}\r\n{encoded('u:p')[3:]}\n"}, Login("u", "p")),
        ({"auth": encoded("u:p"), "registrytoken": "r"}, Login("u", "p")),
        ({"registrytoken": "r"}, Login(registry_token="r")),
        ({"username": "<token>", "password": "i"}, Login(identity_token="i")),
        ({"password": "p"}, ANONYMOUS),
        ({}, ANONYMOUS),
    ],
)
def test_logins(given: dict[str, str], login: Login) -> None:
    assert Login.of(Credentials(**given)) == login


@pytest.mark.parametrize("auth", [MARK, f"!!!{MARK}", encoded(MARK)])
def test_malformed_logins_are_refused_without_showing_them(auth: str) -> None:
    with pytest.raises(ValueError, match=r"^auth ") as caught:
        Login.of(Credentials(auth=auth))
    assert MARK not in str(caught.value)


def test_a_login_that_is_not_utf8_is_shown_as_it_was_given() -> None:
    given = base64.b64encode("u:p\u00e4sswort".encode("latin-1")).decode()
    login = Login.of(Credentials(auth=given))
    assert login.basic == f"Basic {given}"
    assert login.fingerprint != Login("u", "p\u00e4sswort").fingerprint
    assert redact("it was p%E4sswort", login.secrets) == "it was [secret]"


def test_fingerprints_tell_identities_apart() -> None:
    logins = [
        ANONYMOUS,
        Login("ab", "c"),
        Login("a", "bc"),
        Login("abc"),
        Login(identity_token="abc"),
        Login(registry_token="abc"),
    ]
    assert len({login.fingerprint for login in logins}) == len(logins)
    assert MARK not in repr(Login(MARK, MARK, MARK, MARK))
