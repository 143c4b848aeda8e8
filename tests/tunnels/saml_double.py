"""A double of a Cisco ASA that lets people log in with a browser (SAML), as far as the login goes: ocserv has
no SAML. It refuses what such a server would refuse, and says what it saw.

    python tests/tunnels/saml_double.py ADDRESS CERTIFICATE KEY

The dialogue is what openconnect 9 speaks with method single-sign-on-external-browser: POST of config-auth XML
(init, auth-reply), and a token that is encrypted for the key in X-AnyConnect-STRAP-DH-Pubkey (ECDH P-256,
HKDF-SHA256 "AC_ECIES", AES-256-GCM with a tag of 12 bytes). After the login it lets nobody in: 503.
"""

from __future__ import annotations

import base64
import os
import ssl
import struct
import sys
import xml.etree.ElementTree as ElementTree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

READY = "the SAML double serves"
SESSION = "7A0B5C1D2E3F"  # what a login gives
_TAG_BYTES, _IV_BYTES = 12, 12
_METHOD = "single-sign-on-external-browser"
_FORM = """<?xml version="1.0" encoding="UTF-8"?>
<config-auth client="vpn" type="auth-request" aggregate-auth-version="2">
<opaque is-for="sg"><tunnel-group>STAFF</tunnel-group><auth-method>single-sign-on-external-browser</auth-method>
</opaque>
<auth id="main">
<title>Login</title>
<message>Please complete the authentication process in the AnyConnect Login window.</message>
<sso-v2-login>https://{host}/+CSCOE+/saml/sp/login?ctx=42</sso-v2-login>
<sso-v2-login-final>https://{host}/+CSCOE+/saml_ac_login.html</sso-v2-login-final>
<sso-v2-token-cookie-name>acSamlv2Token</sso-v2-token-cookie-name>
<sso-v2-error-cookie-name>acSamlv2Error</sso-v2-error-cookie-name>
<sso-v2-browser-mode>external</sso-v2-browser-mode>
<form method="post" action="/"><input type="sso" name="sso-token"></input></form>
</auth>
</config-auth>"""
_COMPLETE = """<?xml version="1.0" encoding="UTF-8"?>
<config-auth client="vpn" type="complete" aggregate-auth-version="2">
<session-id>7</session-id><session-token>{session}</session-token>
<auth id="success"><message></message></auth>
</config-auth>"""


def sealed(token: bytes, client_key: bytes) -> str:
    """The token, encrypted for the client with this public key (DER), as it stands in an address."""
    ours = ec.generate_private_key(ec.SECP256R1())
    theirs = serialization.load_der_public_key(client_key)
    assert isinstance(theirs, ec.EllipticCurvePublicKey)
    derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"AC_ECIES").derive
    nonce = os.urandom(_IV_BYTES)
    encryptor = Cipher(
        algorithms.AES(derive(ours.exchange(ec.ECDH(), theirs))), modes.GCM(nonce, min_tag_length=_TAG_BYTES)
    ).encryptor()
    text = encryptor.update(token) + encryptor.finalize()
    public = ours.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    parts = {1: public, 2: encryptor.tag[:_TAG_BYTES], 3: text, 4: nonce}
    blob = b"\0\1" + b"".join(struct.pack(">HH", tag, len(part)) + part for tag, part in parts.items())
    return quote(base64.b64encode(blob).decode(), safe="")


class SamlHandler(BaseHTTPRequestHandler):
    """One connection of the client, or of a browser."""

    protocol_version = "HTTP/1.1"
    client_key = b""  # of the login that has begun
    token = ""  # what its browser gets at the end

    def do_POST(self) -> None:
        """A step of the login."""
        document = ElementTree.fromstring(self.rfile.read(int(self.headers["Content-Length"])))
        seen = {name: self.headers.get(name, "") for name in ("User-Agent", "X-Aggregate-Auth")}
        print(self.path, document.get("type"), document.findtext("device-id"), seen, flush=True)
        if document.get("type") == "init":
            methods = [each.text for each in document.iter("auth-method")]
            key = self.headers.get("X-AnyConnect-STRAP-DH-Pubkey", "")
            if _METHOD not in methods or not key:
                return self._reply(403, "the client does not offer logins by an external browser")
            SamlHandler.client_key, SamlHandler.token = base64.b64decode(key), os.urandom(20).hex()
            return self._reply(200, _FORM.format(host=self.headers["Host"]))
        given = document.findtext("./auth/sso-token") or document.findtext("./auth/acSamlv2Token")
        if not SamlHandler.token or given != SamlHandler.token:
            return self._reply(401, f"not the token: {ElementTree.tostring(document)!r}")
        SamlHandler.token = ""
        return self._reply(200, _COMPLETE.format(session=SESSION))

    def do_GET(self) -> None:
        """What a browser asks for: the login page, which here lets everybody in."""
        if self.path != "/+CSCOE+/saml/sp/login?ctx=42" or not SamlHandler.token:
            return self._reply(404, "no such page")
        blob = sealed(SamlHandler.token.encode(), SamlHandler.client_key)
        back = quote(f"https://{self.headers['Host']}/+CSCOE+/saml_ac_login.html", safe="")
        self.send_response(302)
        self.send_header("Location", f"http://localhost:29786/api/sso/{blob}?return={back}")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def do_CONNECT(self) -> None:
        """The session: nobody is let in, but a cookie that is not ours is another refusal."""
        known = SESSION in self.headers.get("Cookie", "")
        self.send_response(503 if known else 401)
        self.send_header("X-Reason", "only logins are doubled here")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _reply(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/xml" if status == 200 else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(address: str, certificate: str, key: str) -> None:
    """Serve on port 443."""
    server = ThreadingHTTPServer((address, 443), SamlHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(READY, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
