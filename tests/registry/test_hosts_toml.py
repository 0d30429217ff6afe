"""hosts.toml, field for field."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri_imaged.errors import Category, ConfigError, RegistryError
from cri_imaged.registry.hosts.directory import HostsDirectory, folder_names
from cri_imaged.registry.hosts.host import ALL_CAPABILITIES, Capability, Host, TlsSettings
from cri_imaged.registry.hosts.toml import parse_hosts
from tests.registry.helpers import write_hosts
from tests.support.leaks import MARK

FILE = Path("/certs.d/registry.example/hosts.toml")


def parse(text: str, registry: str = "registry.example") -> tuple[Host, ...]:
    return parse_hosts(text, FILE, registry)


def one(text: str) -> Host:
    (host,) = parse(text)
    return host


def test_hosts_keep_the_order_of_the_file_and_server_comes_last() -> None:
    hosts = parse(
        """
        server = "https://upstream.example"
        [host."https://z.example"]
        [host."https://a.example"]
          [host."https://a.example".header]
            x = "1"
        [host."http://m.example:5000"]
        """
    )
    assert [(host.scheme, host.authority) for host in hosts] == [
        ("https", "z.example"),
        ("https", "a.example"),
        ("http", "m.example:5000"),
        ("https", "upstream.example"),
    ]


def test_without_server_the_registry_itself_comes_last_with_the_root_fields() -> None:
    hosts = parse('skip_verify = true\ndial_timeout = "2s"\n[host."https://m.example"]\n')
    assert hosts[-1] == Host(
        "https", "registry.example", tls=TlsSettings(skip_verify=True), dial_seconds=2.0
    )


def test_docker_hub_itself_is_asked_at_its_registry() -> None:
    assert parse("", "docker.io")[-1].authority == "registry-1.docker.io"
    assert parse('server = "https://docker.io"', "docker.io")[-1].authority == (
        "registry-1.docker.io"
    )


@pytest.mark.parametrize(
    ("written", "capabilities"),
    [
        ("[]", ALL_CAPABILITIES),
        ('["pull"]', Capability.PULL),
        ('["Pull", "RESOLVE"]', Capability.PULL | Capability.RESOLVE),
        ('["push", "referrers"]', Capability.PUSH | Capability.REFERRERS),
    ],
)
def test_capabilities(written: str, capabilities: Capability) -> None:
    assert (
        one(f'server = "https://s.example"\ncapabilities = {written}').capabilities == capabilities
    )


@pytest.mark.parametrize(
    ("url", "override", "path"),
    [
        ("https://h.example", False, "/v2"),
        ("https://h.example/", False, "/v2"),
        ("https://h.example/v2", False, "/v2"),
        ("https://h.example/us", False, "/us/v2"),
        ("https://h.example/a/../b//c/", False, "/b/c/v2"),
        ("https://h.example/v2/upstream", False, "/v2/upstream/v2"),
        ("https://h.example/v2/upstream", True, "/v2/upstream"),
        ("https://h.example", True, ""),
    ],
)
def test_paths(url: str, override: bool, path: str) -> None:
    assert one(f'server = "{url}"\noverride_path = {str(override).lower()}').path == path


@pytest.mark.parametrize(
    ("written", "authorities"),
    [('"ca.pem"', ["ca.pem"]), ('["/etc/a.pem", "b.pem"]', ["/etc/a.pem", "b.pem"])],
)
def test_authorities(written: str, authorities: list[str]) -> None:
    found = one(f'server = "https://s.example"\nca = {written}').tls.authorities
    assert found == tuple(FILE.parent / name for name in authorities)


@pytest.mark.parametrize(
    ("written", "pairs"),
    [
        ('"c.pem"', [("c.pem", None)]),
        ('["1.pem", "2.pem"]', [("1.pem", None), ("2.pem", None)]),
        ('[["c.cert", "c.key"], ["c.pem", ""]]', [("c.cert", "c.key"), ("c.pem", None)]),
    ],
)
def test_client_certificates(written: str, pairs: list[tuple[str, str | None]]) -> None:
    found = one(f'server = "https://s.example"\nclient = {written}').tls.clients
    assert found == tuple(
        (FILE.parent / certificate, FILE.parent / key if key else None)
        for certificate, key in pairs
    )


def test_headers() -> None:
    host = one(f'server = "https://s.example"\n[header]\nx-a = "{MARK}"\nx-b = ["2", "3"]')
    assert host.headers == (("x-a", MARK), ("x-b", "2"), ("x-b", "3"))


def test_http_with_tls_settings_means_tls_where_the_host_speaks_it() -> None:
    host = one('server = "http://192.168.31.250:5000"\nskip_verify = true')
    assert (host.scheme, host.plain_fallback) == ("https", True)
    host = one('server = "http://192.168.31.250:80"\nskip_verify = true')
    assert (host.scheme, host.plain_fallback) == ("http", False)
    host = one('server = "http://192.168.31.250:5000"')
    assert (host.scheme, host.plain_fallback) == ("http", False)
    host = one('server = "https://192.168.31.250:5000"\nskip_verify = true')
    assert (host.scheme, host.plain_fallback) == ("https", False)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("server = \n", 1, "Invalid value"),
        ('\n\n[host."https://a.example"\n', 3, "Expected"),
        ("a = 1\nb = {", 2, ""),
        ('server = "https://s.example"\n\ncapabilites = ["pull"]\n', 3, "capabilites is not known"),
        ('[hosts."https://a.example"]\n', 1, "hosts is not known"),
        ('[host."https://a.example"]\nca = "x"\n\ncapabilities = ["pul"]\n', 4, "unknown 'pul'"),
        ('[host."https://a.example"]\n[host."https://b.example"]\nca = 3\n', 3, "ca must be"),
        ('[host."https://a.example"]\nskip_verify = "yes"\n', 2, "skip_verify must be true"),
        ('[host."https://a.example"]\nclient = [["a", "b", "c"]]\n', 2, "client must be"),
        ('[host."https://a.example"]\ndial_timeout = "soon"\n', 2, "dial_timeout must be"),
        ('[host."https://a.example"]\ndial_timeout = "-1s"\n', 2, "dial_timeout must be"),
        ('[host."https://a.example"]\ndial_timeout = 5\n', 2, "dial_timeout must be"),
        ('[host."https://a.example"]\ndial_timeout = "0"\n', 2, "dial_timeout must be"),
        (f'[host."https://a.example".header]\nx = [["{MARK}"]]\n', 2, "x must be a string"),
        (f'[host."https://a.example".header]\n"x y" = "{MARK}"\n', 2, "no header that HTTP allows"),
        (
            f'[host."https://a.example"]\n[host."https://a.example".header]\nx = "{MARK}\\r\\nb"\n',
            3,
            "no header",
        ),
        ('[host."ftp://a.example"]\n', 1, "must be an http:// or https:// URL"),
        (f'ca = "x"\nserver = "https://u:{MARK}@a.example"\n', 2, "credentials"),
        (
            f'[host."https://u:{MARK}@a.example"]\n',
            1,
            "https://a.example must not hold credentials",
        ),
        ('server = "https://a.example?x=1"\n', 1, "scheme, host, port and path"),
        ('server = "https://a.example:99999"\n', 1, "no URL"),
        ('[host."https://xn--a.example"]\n', 1, "a host that there cannot be"),
        (f'server = "https://{"a" * 64}.example"\n', 1, "a host that there cannot be"),
        ('blocked = "yes"\n', 1, "blocked must be true"),
        ('ca = "a\\u0000b"\n', 1, "ca must not hold a NUL"),
        ('client = [["a", "b\\u0000"]]\n', 1, "client must not hold a NUL"),
        ('order = "size"\n', 1, "order must be"),
        ('[host."https://a.example"]\norder = "latency"\n', 2, "order is not known"),
        ("trace_context = 1\n", 1, "trace_context must be true"),
        ('[host."https://a.example"]\nrewrite = "x"\n', 2, "rewrite must be a table"),
        ('[host."https://a.example".rewrite]\n"(" = "x"\n', 2, "is no regular expression"),
        ('[host."https://a.example".rewrite]\n"x" = 3\n', 2, "replaced by a string"),
        ("server = 3\n", 1, "server must be a URL"),
        ("host = 3\n", 1, "host must be tables"),
        ('host = { "https://a.example" = 3 }\n', 1, "must be a table"),
        (
            '[host."https://a.example"]\n[host."https://a.example"."https://b.example"]\n',
            2,
            "not known",
        ),
    ],
)
def test_what_is_malformed_is_named_with_file_and_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith(f"{FILE}:{line}: ")
    assert problem in message


KEYS = st.sampled_from(
    ["server", "capabilities", "ca", "client", "skip_verify", "header", "override_path", "host"]
)
SCALARS = st.one_of(
    st.sampled_from(
        ['""', '"https://h.example"', "true", "3", "1.5", "1979-05-27", "nan", '"[::1"']
    ),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(
        lambda text: "'" + text.replace("'", "") + "'"
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.tuples(KEYS, inner).map(lambda pair: f"{{ {pair[0]} = {pair[1]} }}"),
    ),
    max_leaves=6,
)
LINES = st.one_of(
    st.tuples(KEYS, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    st.sampled_from(
        ['[host."https://a.example"]', '[host."http://[::1]:5"]', "[header]", "[host.x.header]"]
    ),
    st.text(max_size=20),
)


@given(st.lists(LINES, max_size=6).map("\n".join))
def test_any_file_gives_hosts_or_an_error_that_names_it(text: str) -> None:
    outcome = outcome_of(text)
    if isinstance(outcome, ConfigError):
        assert str(outcome).startswith(f"{FILE}:")
    else:
        assert outcome
        assert all(host.scheme in ("http", "https") for host in outcome)


def outcome_of(text: str) -> tuple[Host, ...] | ConfigError:
    try:
        return parse(text)
    except ConfigError as error:
        return error


# --- folders --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "names"),
    [
        ("docker.io", ("docker.io", "_default")),
        ("my.example:5000", ("my.example_5000_", "my.example:5000", "_default")),
        ("[::1]:5000", ("[::1]_5000_", "[::1]:5000", "_default")),
        ("[::1]", ("[::1]", "_default")),
        ("GHCR.io", ("GHCR.io", "ghcr.io", "_default")),
        ("ghcr.io:443", ("ghcr.io_443_", "ghcr.io:443", "ghcr.io", "_default")),
        ("registry-1.docker.io", ("registry-1.docker.io", "docker.io", "_default")),
    ],
)
def test_folder_names(registry: str, names: tuple[str, ...]) -> None:
    assert folder_names(registry) == names


def authorities(directory: HostsDirectory, registry: str) -> list[str]:
    return [host.authority for host in directory.hosts(registry)]


def test_folders_are_looked_for_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    directory = HostsDirectory(f"{first}:{second}", {})
    assert authorities(directory, "r.example:5") == ["r.example:5"]
    for root, name in (
        (second, "_default"),
        (second, "r.example:5"),
        (second, "r.example_5_"),
        (first, "_default"),
        (first, "r.example:5"),
        (first, "r.example_5_"),
    ):
        write_hosts(
            root, name, f'server = "https://{root.name}{name.strip("_").replace(":", ".")}"'
        )
        assert authorities(directory, "r.example:5") == [
            f"{root.name}{name.strip('_').replace(':', '.')}"
        ]


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    directory = HostsDirectory(str(tmp_path), {})
    file = write_hosts(tmp_path, "r.example", 'server = "https://one.example"')
    assert authorities(directory, "r.example") == ["one.example"]
    file.write_text('server = "https://another.example"')
    assert authorities(directory, "r.example") == ["another.example"]
    file.write_text("server = ")
    with pytest.raises(ConfigError, match=r"hosts\.toml:1"):
        directory.hosts("r.example")
    file.unlink()
    assert authorities(directory, "r.example") == ["r.example"]


def test_docker_certificates_count_where_there_is_no_hosts_toml(tmp_path: Path) -> None:
    folder = tmp_path / "r.example"
    folder.mkdir()
    for name in ("b.crt", "a.crt", "c.cert", "c.key", "d.cert", "readme"):
        (folder / name).write_text("")
    (host,) = HostsDirectory(str(tmp_path), {}).hosts("r.example")
    assert host.tls == TlsSettings(
        (folder / "a.crt", folder / "b.crt"),
        ((folder / "c.cert", folder / "c.key"), (folder / "d.cert", None)),
    )


def test_a_file_that_is_not_text_is_refused_with_its_line(tmp_path: Path) -> None:
    file = write_hosts(tmp_path, "r.example", "")
    file.write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(ConfigError, match=r"hosts\.toml:2: is not UTF-8"):
        HostsDirectory(str(tmp_path), {}).hosts("r.example")


def test_configured_headers_go_to_every_host(tmp_path: Path) -> None:
    write_hosts(tmp_path, "r.example", '[host."https://m.example".header]\nb = "2"')
    hosts = HostsDirectory(str(tmp_path), {"a": ["1"]}).hosts("r.example")
    assert [host.headers for host in hosts] == [(("a", "1"), ("b", "2")), (("a", "1"),)]
    with pytest.raises(ConfigError, match=r"registry\.headers"):
        HostsDirectory("", {"bad name": [MARK]})


def test_a_hosts_own_header_replaces_the_configured_one_of_the_same_name(tmp_path: Path) -> None:
    text = '[host."https://m.example".header]\nx-team = ["2", "3"]\n[header]\nother = "4"'
    write_hosts(tmp_path, "r.example", text)
    general = {"X-Team": ["1"], "User-Agent": ["a"]}
    mirror, registry = HostsDirectory(str(tmp_path), general).hosts("r.example")
    assert mirror.headers == (("User-Agent", "a"), ("x-team", "2"), ("x-team", "3"))
    assert registry.headers == (("X-Team", "1"), ("User-Agent", "a"), ("other", "4"))


def test_what_is_remembered_of_names_that_anybody_asks_for_has_an_end(tmp_path: Path) -> None:
    write_hosts(tmp_path, "_default", '[host."https://m.example"]')
    directory = HostsDirectory(str(tmp_path), {})
    before = len(gc.get_objects())
    for number in range(20_000):
        assert len(directory.hosts(f"r{number}.example")) == 2
    assert len(gc.get_objects()) - before < 20_000


@pytest.mark.parametrize(
    ("rewrite", "name", "found"),
    [
        (
            '"^rancher/(.*)" = "mirror/rancher-images/$1"',
            "rancher/k3s",
            "mirror/rancher-images/k3s",
        ),
        ('"^rancher/(.*)" = "mirror/$1"', "library/busybox", "library/busybox"),
        ('"(.*)" = "proxy/$1"', "a/b", "proxy/a/b"),
        ("'(?P<first>[^/]+)/(.*)' = '${2}/${first}'", "a/b", "b/a"),
        ('"^a$" = "b"\n"^b$" = "c"', "a", "b"),
        ('"^a/" = "a/"\n"a" = "c"', "a/x", "c/x"),
        ('"(x)?a" = "$1$2$$"', "a", "$"),
        ('"x*" = "-"', "axxb", "-a-b-"),
    ],
)
def test_rewrites(rewrite: str, name: str, found: str) -> None:
    text = f'[host."https://m.example"]\n[host."https://m.example".rewrite]\n{rewrite}'
    assert parse(text)[0].repository(name) == found


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ('[host."https://m.example"]\nblocked = true', ["registry.example"]),
        ('[host."https://m.example"]\nblocked = false', ["m.example", "registry.example"]),
    ],
)
def test_a_blocked_host_is_left_out(text: str, hosts: list[str]) -> None:
    assert [host.authority for host in parse(text)] == hosts


def test_mirrors_may_be_tried_by_latency_and_the_registry_itself_stays_last() -> None:
    hosts = parse('order = "latency"\n[host."https://a.example"]\n[host."https://b.example"]')
    assert [host.by_latency for host in hosts] == [True, True, False]
    assert not any(host.by_latency for host in parse('[host."https://a.example"]'))


def test_a_blocked_registry_is_refused_with_the_file() -> None:
    with pytest.raises(RegistryError, match=r"is blocked by .*hosts\.toml") as caught:
        parse('blocked = true\n[host."https://m.example"]')
    assert caught.value.category is Category.PERMISSION_DENIED
