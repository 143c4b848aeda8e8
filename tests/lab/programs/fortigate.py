"""A double of a FortiGate's SSL VPN up to the point where PPP begins: fortigate.py CERTIFICATE KEY ADDRESS
PORT

Strict: whatever a FortiGate would not get is answered with 400 and printed as `wrong`. Each judged login is
printed as `accepted`, `refused` or `asked` (for a code). The password `with a code` is right when the code
123456 follows.
"""

import http.server
import ssl
import sys
from urllib.parse import parse_qsl

COOKIE = "SVPNCOOKIE=VeryLongAndSecret"
PASSWORD, WITH_CODE, CODE = "correct horse", "with a code", "123456"
PORTAL = "reqid=7,polid=1-1-7,grp=staff,portal=full,magic=1-7,peer="
XML = (
    '<?xml version="1.0"?><sslvpn-tunnel ver="1"><ipv4><dns ip="10.77.0.53"/><assigned-addr '
    'ipv4="10.79.98.1"/></ipv4></sslvpn-tunnel>'
)


class Fortigate(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "xxxxxxxx-xxxxx"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        form = parse_qsl(body, keep_blank_values=True, strict_parsing=True)
        if self.path != "/remote/logincheck" or len(dict(form)) != len(form):
            return self.wrong(body)
        match dict(form):
            case {"username": user, "credential": password, "realm": "", "ajax": "1", **rest} if not rest:
                return self.log_in(user, password)
            case {
                "username": user,
                "realm": "",
                "reqid": "7",
                "polid": "1-1-7",
                "grp": "staff",
                "portal": "full",
                "peer": "",
                "code": code,
                "code2": "",
                "magic": "1-7",
                **rest,
            } if not rest:
                return self.verdict(user == "svc-facilitator" and code == CODE)
        return self.wrong(body)

    def do_GET(self):
        if self.headers.get("Cookie") != COOKIE:
            return self.wrong("no cookie") if self.path != "/remote/logout" else self.answer("")
        if self.path == "/remote/fortisslvpn_xml":
            return self.answer(XML)
        if self.path in ("/remote/index", "/remote/fortisslvpn", "/remote/logout"):
            return self.answer("<html></html>")
        if self.path == "/remote/sslvpn-tunnel":
            print("tunnel", flush=True)
            self.close_connection = True
            while self.rfile.read(1):  # a FortiGate would speak PPP from here on
                pass
            return None
        return self.wrong(self.path)

    def log_in(self, user, password):
        if user == "svc-facilitator" and password == WITH_CODE:
            print("asked", flush=True)
            return self.answer(f"ret=2,{PORTAL},tokeninfo=,chal_msg=Enter your code")
        return self.verdict(user == "svc-facilitator" and password == PASSWORD)

    def verdict(self, right):
        print("accepted" if right else "refused", flush=True)
        if right:
            return self.answer(
                "ret=1,redir=/remote/fortisslvpn", (("Set-Cookie", f"{COOKIE}; path=/; secure; httponly"),)
            )
        return self.answer("ret=0,redir=/remote/login?&err=sslvpn_login_permission_denied&lang=en")

    def answer(self, body, headers=(), code=200):
        data = body.encode()
        self.send_response(code)
        for name, value in (*headers, ("Content-Type", "text/html"), ("Content-Length", str(len(data)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def wrong(self, what):
        print(f"wrong {self.command} {self.path} {what}", flush=True)
        self.answer("", code=400)

    def log_message(self, *_):
        pass


def main(certificate, key, address, port):
    server = http.server.ThreadingHTTPServer((address, int(port)), Fortigate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
