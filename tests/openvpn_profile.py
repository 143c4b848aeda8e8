"""A customer's OpenVPN profile that `facilitator check` has nothing to say about. OpenVPN itself refuses it:
the PEM blocks hold no real certificate.
"""


def sound_profile(remote: str) -> str:
    """With a certificate authority and our certificate and key inside. `remote`: "ADDRESS PORT"."""
    blocks = (("ca", "CERTIFICATE"), ("cert", "CERTIFICATE"), ("key", "PRIVATE KEY"))
    inline = "".join(
        f"<{name}>\n-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n</{name}>\n"
        for name, label in blocks
    )
    return f"client\ndev tun\nremote {remote}\n{inline}"
