"""Checks a login for an OpenVPN server: `verify PREFIX HOW FILE`, where FILE holds user name and password.

PREFIX.password, PREFIX.seed and PREFIX.period (seconds) say what is right; a code is taken once. Each login
becomes a line `VERDICT CODE` in PREFIX.attempts. With HOW = approval the login waits until PREFIX.approved
exists.
"""

import base64
import hmac
import os
import sys
import time
from pathlib import Path

PREFIX, HOW, GIVEN = sys.argv[1:]
USER = "svc-facilitator"
STATE = "0123456789abcdef"


def told(what: str) -> Path:
    """The file in which the server reads this."""
    return Path(os.environ[f"auth_{what}_file"])


def attempts() -> Path:
    return Path(f"{PREFIX}.attempts")


def right_password() -> str:
    return Path(f"{PREFIX}.password").read_text().rstrip("\n")


def totp(step: int) -> str:
    """RFC 6238 with SHA-1 and six digits."""
    seed = base64.b32decode(Path(f"{PREFIX}.seed").read_text().strip())
    digest = hmac.digest(seed, step.to_bytes(8, "big"), "sha1")
    start = digest[-1] & 15
    return f"{(int.from_bytes(digest[start : start + 4], 'big') & 0x7FFFFFFF) % 10**6:06}"


def right_code(code: str) -> bool:
    """One of this time step and its neighbours, and not seen before."""
    now = int(time.time()) // int(Path(f"{PREFIX}.period").read_text())
    seen = attempts().read_text().split() if attempts().exists() else []
    return code not in seen and code in [totp(step) for step in (now - 1, now, now + 1)]


def verdict(user: str, given: str) -> tuple[str, str]:
    """(accepted, refused or asked, the code that was given)."""
    password, code = given, ""
    if HOW in ("static", "token") and given.startswith("SCRV1:"):
        password, code = (base64.b64decode(part).decode() for part in given.split(":")[1:])
    elif HOW == "appended":
        password, code = given[:-6], given[-6:]
    elif HOW == "dynamic" and given.startswith("CRV1::"):
        _, _, state, _, code = given.split(":", 4)
        password = right_password() if state == STATE else ""
    if user != USER or password != right_password():
        return "refused", code
    if HOW == "dynamic" and not code:
        told("failed_reason").write_text(
            f"CRV1:R,E:{STATE}:{base64.b64encode(user.encode()).decode()}:Enter your code"
        )
        return "asked", code
    return ("accepted" if HOW in ("password", "approval") or right_code(code) else "refused"), code


def wait_for_approval() -> None:
    """Let the login wait, and a process of its own let it in."""
    told("pending").write_text("60\ncrtext\nCR_TEXT:E:Approve it on your phone\n")
    if os.fork():
        return
    os.closerange(0, 3)
    until = time.monotonic() + 60
    while time.monotonic() < until and not os.path.exists(f"{PREFIX}.approved"):
        time.sleep(0.02)
    told("control").write_text("1" if os.path.exists(f"{PREFIX}.approved") else "0")


def main() -> int:
    user, given = Path(GIVEN).read_text().split("\n")[:2]
    found, code = verdict(user, given)
    with attempts().open("a") as file:
        file.write(f"{found} {code}\n")
    if found == "accepted" and HOW == "approval":
        wait_for_approval()
        return 2
    return 0 if found == "accepted" else 1


sys.exit(main())
