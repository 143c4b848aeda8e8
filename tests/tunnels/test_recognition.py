"""What a file is that was sent in place of the right one, and how text in any encoding is read."""

from __future__ import annotations

import pytest

from tunnels.profile_text import text_of
from tunnels.profiles import ProfileError
from tunnels.recognition import Pem, ProfileFormat, pem_problem, placeholder, recognised_text, windows_path

OPENVPN = "client\ndev tun\nremote 192.0.2.1 1194\n"
WIREGUARD = "[Interface]\nPrivateKey = AAAA\n[Peer]\nPublicKey = BBBB\n"
SWANCTL = "connections {\n  acme {\n  }\n}\n"
VPNC = "IPSec gateway 192.0.2.1\nIPSec ID staff\n"
OWN = {
    ProfileFormat.OPENVPN: OPENVPN,
    ProfileFormat.WIREGUARD: WIREGUARD,
    ProfileFormat.SWANCTL: SWANCTL,
    ProfileFormat.VPNC: VPNC,
}


@pytest.mark.parametrize("wanted", OWN)
def test_each_format_passes_where_it_is_wanted_and_is_recognised_elsewhere(wanted: ProfileFormat) -> None:
    for format, text in OWN.items():
        found = recognised_text(text, wanted)
        if format is wanted:
            assert found is None
        else:
            assert found is not None
            assert format.value in found.sentence
            assert "set kind: " in found.sentence


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        (b"\n<!DOCTYPE html>\n<html>", 2, "a web page (HTML), most likely the login page"),
        (
            b"config setup\n\nconn acme\n  left=%any\n",
            1,
            "an ipsec.conf, strongSwan's old format; write it as",
        ),
        (b"# VPN\nconn acme\n  keyexchange=ikev2\n  right = 192.0.2.1\n", 2, "an ipsec.conf"),
        (b'192.0.2.1 : PSK "s"\n', 1, "an ipsec.secrets"),
        (b"[main]\nDescription=\nHost=192.0.2.1\nAuthType=1\nenc_GroupPwd=00\n", 1, "(.pcf); set kind: vpnc"),
        (b'{"Type":"UnencryptedConfiguration","NetworkConfigurations":[]}', 1, "ChromeOS (.onc)"),
        (b'<?xml version="1.0"?>\n<AzVpnProfile xmlns="x">', 1, "Azure VPN Client"),
        (b'<?xml version="1.0"?>\n<AnyConnectProfile>', 1, "AnyConnect (XML); set kind: openconnect"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE plist PUBLIC "x">\n<plist>', 1, ".mobileconfig"),
        (b"PK\x03\x04rest", 1, "a zip archive; unpack it"),
        (b"\x30\x82\x0a\x01\x02\x01\x03\x30", 1, "a PKCS#12 file"),
        (b"\x30\x82\x03\x01\x30\x82", 1, "in binary form (DER)"),
        (b"%PDF-1.4\n", 1, "a PDF document"),
        (b"-----BEGIN RSA PRIVATE KEY-----\n", 1, "a private key; put it beside"),
        (b"-----BEGIN CERTIFICATE-----\n", 1, "a certificate; put it beside"),
        (b"PuTTY-User-Key-File-2: ssh-rsa\n", 1, "a private key of PuTTY"),
        (b"[connection]\nid=x\n[vpn]\n", 1, "a connection of NetworkManager"),
        (b"https://vpn.example.net/profile\n", 1, "a web address"),
        (b"crypto isakmp policy 200\n", 1, "the configuration of a router"),
        (b"Host bastion\n  HostName 192.0.2.1\n", 1, "a configuration of ssh"),
        (b"  \n", 1, "the file is empty"),
        (b"MZ\x90\x00", 1, "a Windows program"),
        (b"c\0l\0i\0e\0n\0t\0", 1, "UTF-16 without a byte order mark"),
    ],
)
def test_the_wrong_thing_is_named(data: bytes, line: int, said: str) -> None:
    with pytest.raises(ProfileError) as caught:
        text_of(data, ProfileFormat.OPENVPN)
    assert said in caught.value.text
    assert caught.value.line == line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(encoding: str, newline: str) -> None:
    assert text_of(OPENVPN.replace("\n", newline).encode(encoding), ProfileFormat.OPENVPN) == OPENVPN


def test_bytes_in_comments_do_not_matter_and_elsewhere_the_line_and_encoding_are_named() -> None:
    comment = OPENVPN.encode() + b"; B\xfcro\nport 1 # \xe4\n"
    assert "remote 192.0.2.1" in text_of(comment, ProfileFormat.OPENVPN, "#;")
    for value, encoding in (
        ("Büro".encode("cp1252"), "Windows-1252"),
        ("Büro".encode("cp850"), "CP850"),
        ("Офис".encode("cp1251"), "another script"),
        (b'"a # \xe4"', "Windows-1252"),  # no comment: within a quotation
    ):
        with pytest.raises(ProfileError, match=encoding) as caught:
            text_of(OPENVPN.encode() + b"setenv UV_X " + value, ProfileFormat.OPENVPN, "#;")
        assert caught.value.line == 4


@pytest.mark.parametrize(
    "value",
    ["YOUR_SERVER", "<server>", "CHANGE_ME", "changeme", "your-server-ip", "x.x.x.x", "{{ host }}", "$HOST",
     "SERVER_ADDRESS", "vpn.YOUR-DOMAIN.com", "replace_this", "%SERVER%", "xxx", "INSERT-KEY-HERE", "@@HOST@@"],
)  # fmt: skip
def test_placeholders(value: str) -> None:
    assert placeholder(value)


@pytest.mark.parametrize(
    "value",
    ["vpn.acme.example", "192.0.2.1", "2001:db8::1", "MY-VPN", "SRV01", "AES-256-CBC", "changemedia.example",
     "yourserverhosting.example", "[2001:db8::1]", "xx.example", "ACME", "todo.example", "%any", "static.7.2.0.192.clients.your-server.de"],
)  # fmt: skip
def test_no_placeholders(value: str) -> None:
    assert not placeholder(value)


def test_windows_paths() -> None:
    assert all(
        map(windows_path, [r"C:\vpn\ca.crt", "C:/vpn/ca.crt", r"\\server\share\ca.crt", r"keys\ca.crt"])
    )
    assert not any(map(windows_path, ["ca.crt", "/etc/ca.crt", "keys/ca.crt"]))


CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def test_what_a_pem_text_holds_is_compared_with_what_belongs_there() -> None:
    assert pem_problem(CERTIFICATE, Pem.CERTIFICATE) is None
    assert pem_problem(CERTIFICATE, Pem.PRIVATE_KEY) == "holds a certificate where a private key belongs"
    assert "certificate request" in str(
        pem_problem(CERTIFICATE.replace("CERTIFICATE", "CERTIFICATE REQUEST"), Pem.CERTIFICATE)
    )
    assert "cut off" in str(pem_problem(CERTIFICATE.rpartition("-----END")[0], Pem.CERTIFICATE))
    assert "not filled in" in str(pem_problem("<paste certificate here>", Pem.CERTIFICATE))
    assert "no certificate in PEM form" in str(pem_problem("hello", Pem.CERTIFICATE))
