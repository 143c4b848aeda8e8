"""A customer's profile: what passes, what is left out, what is refused, and that nothing slips through."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunnels.kinds.openvpn.profile import OpenVPNProfile, read_profile
from tunnels.kinds.openvpn.syntax import quote, split_words

REMOTE = "remote vpn.example.com 1194 udp\n"


def read(*lines: str) -> OpenVPNProfile:
    return read_profile((REMOTE + "\n".join(lines) + "\n").encode())


def kept(*lines: str) -> list[str]:
    return read(*lines).text.splitlines()[1:]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ()),
        ("   ", ()),
        ("# a comment", ()),
        ("; a comment", ()),
        ("dev tun", ("dev", "tun")),
        ("dev tun # comment", ("dev", "tun")),
        ("dev tun#x", ("dev", "tun#x")),
        ("\tcipher\tAES-256-GCM\r", ("cipher", "AES-256-GCM")),
        ('ca "my files/ca.crt"', ("ca", "my files/ca.crt")),
        ("ca 'my files/ca.crt'", ("ca", "my files/ca.crt")),
        ("ca 'a\\b'", ("ca", "a\\b")),
        (r"ca my\ files/ca.crt", ("ca", "my files/ca.crt")),
        (r'ca "a\"b\\c"', ("ca", 'a"b\\c')),
        ('a "b"c', ("a", "b", "c")),
        ('a ""', ("a", "")),
        ('"# not a comment"', ("# not a comment",)),
    ],
)
def test_words(line: str, words: tuple[str, ...]) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize(
    "line", ['ca "open', "ca 'open", r"ca C:\path", r'ca "a\n"', "ca a\\", "up\x00x", "a b\x1bc"]
)
def test_broken_words(line: str) -> None:
    with pytest.raises(ValueError, match="line 7"):
        split_words(line, 7)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=40))
def test_a_quoted_word_is_read_back(word: str) -> None:
    assert split_words(f"name {quote(word)}") == ("name", word)


@pytest.mark.parametrize(
    "line",
    [
        "cipher AES-256-GCM",
        "auth SHA256",
        "remote-cert-tls server",
        "ca ca.crt",
        "verify-x509-name vpn.example.com name",
        "tun-mtu 1400",
        "pull-filter ignore dhcp-option",
        "explicit-exit-notify 2",
        'static-challenge "Your code" 1',
        "http-proxy 192.0.2.1 3128",
        "setenv UV_TEAM network",
        "askpass pass.txt",
        "providers legacy default",
    ],
)
def test_kept(line: str) -> None:
    assert kept(line) == [line]


@pytest.mark.parametrize(
    "line",
    [
        "dev tun7",
        "dev-node /dev/net/x",
        "daemon",
        "log /etc/cron.d/x",
        "log-append /x",
        "writepid /x",
        "status /x",
        "up /bin/sh",
        "down x",
        "route-up x",
        "route-pre-down x",
        "ipchange x",
        "client-connect x",
        "script-security 3",
        "plugin /tmp/x.so",
        "user nobody",
        "group x",
        "chroot /",
        "management 127.0.0.1 7505",
        "management-query-passwords",
        "auth-user-pass /etc/shadow",
        "auth-retry interact",
        "verb 11",
        "auth-nocache",
        "syslog",
        "mute 5",
        "persist-tun",
        "persist-key",
        "redirect-gateway def1",
        "route 10.0.0.0 255.0.0.0",
        "nobind",
        "route-ipv6 fd00::/8",
        "dhcp-option DNS 10.0.0.1",
        "lport 1194",
        "local 192.0.2.9",
        "setenv LD_PRELOAD /x",
        "cd /",
        "mark 7",
        "setenv-safe a b",
        "remap-usr1 SIGHUP",
        "connect-retry 1",
        "resolv-retry infinite",
        "tls-export-cert /etc",
        "replay-persist /x",
        "tmp-dir /x",
        "iproute /x",
        "block-outside-dns",
        "askpass",
        "--up /bin/sh",
        '"up" /bin/sh',
        "setenv opt up /bin/sh",
        "nice -20",
        "ignore-unknown-option frobnicate",
    ],
)
def test_dropped_and_noted(line: str) -> None:
    profile = read(line)
    assert profile.text == REMOTE
    assert [directive.line for directive in profile.dropped] == [2]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("dev tap", "tap"),
        ("dev tap0", "tap"),
        ("dev-type tap", "tap"),
        ("server 10.0.0.0 255.0.0.0", "server"),
        ("mode server", "server"),
        ("tls-server", "server"),
        ("proto tcp-server", "server"),
        ("config other.ovpn", "one file"),
        ("engine dynamic", "loads code"),
        ("providers /tmp/evil", "loads code"),
        ("pkcs11-providers /x.so", "loads code"),
        ("tls-verify ./check", "verify"),
        ("frobnicate yes", "frobnicate"),
        ("remote", "names no server"),
        ("<ca>", "never closed"),
        ('ca "x', "never closed"),
        ("<ca>\nx</ca>up", "unexpected"),
        ("--", "not an option"),
        (f"ca {'x' * 300}", "longer"),
        ("setenv opt config x", "one file"),
        ("<connection>\nremote x\nconfig y\n</connection>", "one file"),
        ("capath certs", "names a directory"),
        ("crl-verify crl.d dir", "names a directory"),
        ("ca [inline]", "no block <ca>"),
        ("http-proxy 192.0.2.1 3128 /etc/shadow basic", "sent to the proxy"),
        ("http-proxy 192.0.2.1 3128 login.txt", "sent to the proxy"),
        ("--http-proxy 192.0.2.1 3128 'login.txt' ntlm2", "sent to the proxy"),
        ('"http-proxy"\th\t1\t"/etc/a b"', "sent to the proxy"),
        ("http-proxy-user-pass login.txt", "sent to the proxy"),
        ("http-proxy-user-pass [inline]", "no block"),
        ("socks-proxy 192.0.2.1 1080 login.txt", "sent to the proxy"),
        ("socks-proxy 192.0.2.1 1080 stdin", "sent to the proxy"),
        ("setenv opt http-proxy h 1 /etc/shadow", "sent to the proxy"),
        ("<http-proxy>\nh 1 /etc/shadow\n</http-proxy>", "cannot be a block"),
        ("<connection>\nremote x\nhttp-proxy h 1 /etc/shadow\n</connection>", "sent to the proxy"),
        ("<connection>\nremote x\nsocks-proxy h 1 s\n</connection>", "sent to the proxy"),
        ("<askpass>\nx\n</askpass>", "cannot be a block"),
    ],
)
def test_refused_with_its_line(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"line [234]: .*{why}"):
        read(line)


def test_a_key_without_its_block_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="line 2: this is not an option") as caught:
        read("MIGHAgEAMBMGByqGSM49AgEGCCqGSM49")
    assert "MIGH" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"client\n", b"\n\n# nothing\n", b"client\n<connection>\nproto udp\n</connection>\n"]
)
def test_no_remote(data: bytes) -> None:
    with pytest.raises(ValueError, match="no remote"):
        read_profile(data)


def test_not_text() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        read_profile(b"\xff\xfe\x00")


def test_windows_line_ends_and_byte_order_mark() -> None:
    assert (
        read_profile(b"\xef\xbb\xbfremote a 1\r\n<ca>\r\nAAA\r\n</ca>\r\n").text
        == "remote a 1\n<ca>\nAAA\n</ca>\n"
    )


def test_an_unknown_option_that_the_profile_itself_calls_optional() -> None:
    assert kept(
        "ignore-unknown-option shiny", "shiny yes", "setenv opt newer 1", "setenv opt cipher AES-256-GCM"
    ) == ["cipher AES-256-GCM"]


def test_port_means_only_the_far_port() -> None:
    assert kept("port 443") == ["rport 443"]


def test_blocks_are_kept_as_they_are() -> None:
    assert kept("<key>", "  -----BEGIN", "", "# no comment here", "</key> rubbish", "cipher X") == [
        "<key>",
        "  -----BEGIN",
        "",
        "# no comment here",
        "</key>",
        "cipher X",
    ]


def test_a_block_that_is_ours_goes_whole() -> None:
    profile = read("<auth-user-pass>", "somebody", "password", "</auth-user-pass>")
    assert profile.text == REMOTE
    assert profile.asks_login


def test_connections_are_judged_inside() -> None:
    profile = read(
        "<connection>",
        "remote a 1",
        "lport 5",
        "up x",
        "</connection>",
        "<connection>",
        "remote b 2",
        "</connection>",
    )
    assert profile.text.splitlines()[1:] == [
        "<connection>",
        "remote a 1",
        "</connection>",
        "<connection>",
        "remote b 2",
        "</connection>",
    ]
    assert [(directive.name, directive.line) for directive in profile.dropped] == [("lport", 4), ("up", 5)]
    assert profile.remotes == 3


SERVERS = b"client\nremote a 1\nremote b 2\ncipher AES-256-GCM\nremote c 3\n"
BLOCKS = b"".join(b"<connection>\nremote %s 1\n</connection>\n" % name for name in (b"a", b"b"))


@pytest.mark.parametrize(
    ("data", "turn", "servers"),
    [
        (SERVERS, 0, "abc"),
        (SERVERS, 1, "bca"),
        (SERVERS, 2, "cab"),
        (SERVERS, 7, "bca"),
        (BLOCKS, 1, "ba"),
        (b"remote a 1\n", 5, "a"),
    ],
)
def test_each_turn_begins_with_another_server(data: bytes, turn: int, servers: str) -> None:
    text = read_profile(data, turn).text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("remote ")] == list(servers)
    assert sorted(text.splitlines()) == sorted(data.decode().splitlines())


def test_a_random_order_is_drawn_once_for_each_profile() -> None:
    def order(data: bytes, turn: int) -> str:
        return "".join(
            line.split()[1]
            for line in read_profile(data, turn).text.splitlines()
            if line.startswith("remote ")
        )

    profiles = [SERVERS + b"remote-random\n# %d" % number for number in range(20)]
    assert len({order(data, 0) for data in profiles}) > 1
    for data in profiles:
        first = order(data, 0)
        assert order(data, 1) == first[1:] + first[:1]
        assert "remote-random" not in read_profile(data).text


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        ("# none", None),
        ("session-timeout 3600", 3600),
        ("session-timeout 0", None),
        ("session-timeout x", None),
        ("session-timeout", None),
    ],
)
def test_how_long_the_profile_lets_a_session_last(line: str, limit: int | None) -> None:
    assert read(line).limit == limit


def test_our_certificate_where_it_stands_in_the_profile() -> None:
    assert list(read("<ca>", "A", "</ca>", "<cert>", "B", "C", "</cert>").certificates(lambda _: b"")) == [
        b"B\nC\n"
    ]


def complete(*lines: str) -> list[str]:
    return read(*lines).complete(lambda named: f"<{named.file}>".encode()).splitlines()[1:]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["ca [inline]", "<ca>", "A", "</ca>"], ["<ca>", "A", "</ca>"]),
        (
            ["tls-auth [[INLINE]] 1", "<tls-auth>", "A", "</tls-auth>"],
            ["key-direction 1", "<tls-auth>", "A", "</tls-auth>"],
        ),
        (["secret s.key 0"], ["<secret>", "<s.key>", "</secret>", "key-direction 0"]),
        (["tls-crypt-v2 a.key force-cookie"], ["<tls-crypt-v2>", "<a.key>", "</tls-crypt-v2>"]),
        (["askpass pass.txt", "askpass stdin"], []),
        (
            ["http-proxy 192.0.2.1 3128 auto", "<http-proxy-user-pass>", "u", "p", "</http-proxy-user-pass>"],
            ["http-proxy 192.0.2.1 3128 auto", "<http-proxy-user-pass>", "u", "p", "</http-proxy-user-pass>"],
        ),
        (
            ["http-proxy 192.0.2.1 3128 stdin basic", "socks-proxy 192.0.2.1 1080"],
            ["http-proxy 192.0.2.1 3128 stdin basic", "socks-proxy 192.0.2.1 1080"],
        ),
    ],
)
def test_no_file_is_left_by_its_name(lines: list[str], text: list[str]) -> None:
    assert complete(*lines) == text


def test_every_option_of_this_openvpn_that_takes_a_file_is_known() -> None:
    """Its own help says which ones there are."""
    if (openvpn := shutil.which("openvpn")) is None:
        pytest.skip("openvpn is not installed")
    told = subprocess.run([openvpn, "--help"], capture_output=True, text=True).stdout
    usages = [
        line.partition(" : ")[0].partition("]: ")[0] for line in told.splitlines() if line.startswith("--")
    ]
    takes = {
        usage.split()[0].lstrip("-")
        for usage in usages
        if re.search(r" (?:\[?(?:file|dir|up|crl|key|keyfile)\b)", usage)
    }
    assert {
        "ca",
        "cert",
        "key",
        "askpass",
        "http-proxy",
        "socks-proxy",
        "pkcs12",
        "crl-verify",
        "dh",
        "replay-persist",
    } <= takes
    for name in takes:
        words = "192.0.2.1 1080 /etc/shadow" if name.endswith("-proxy") else "/etc/shadow"
        try:
            profile = read(f"{name} {words}")
        except ValueError:
            continue
        assert profile.text == REMOTE or [each.file for each in profile.files] == ["/etc/shadow"], name


_NAMES = st.sampled_from(
    [
        "up",
        "plugin",
        "cd",
        "remote a",
        "<ca>",
        "</ca>",
        "<connection>",
        "</connection>",
        "setenv opt",
        "cipher",
        '"',
        "'",
        "\\",
    ]
)


@given(st.lists(st.one_of(_NAMES, st.text(max_size=12)), max_size=12).map(" ".join), st.binary(max_size=60))
@example("remote a\n<ca>\n" + "x" * 255 + "</ca>\nplugin /x.so\n</ca>", b"")
def test_nothing_of_ours_slips_through(text: str, junk: bytes) -> None:
    for data in (
        text.encode("utf-8", "surrogatepass"),
        text.replace(" ", "\n").encode("utf-8", "surrogatepass"),
        junk,
    ):
        try:
            profile = read_profile(data)
        except ValueError:
            continue
        assert read_profile(profile.text.encode()).dropped == ()
        assert read_profile(profile.text.encode()).text == profile.text
