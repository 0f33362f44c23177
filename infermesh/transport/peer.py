"""Who is on the other side of a connection: the names in a client's certificate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["Names", "Patterns", "names_in"]

MAX_NAMES = 64  # of one certificate
MAX_NAME = 512
MAX_KNOWN = 1024  # certificates whose names, and whose match, are remembered
CERTIFICATE = "x509_pem_cert"

_PART = {"uri": "[^/]+", "dns": "[^.]+", "cn": "[^.]+"}


class Names:
    """The names of peers, by the certificates that their connections have verified.

    grpc tells the names too (`peer_dns`, `x509_common_name`, …), but cuts them at a NUL: whoever has a certificate for
    `admin\\0.evil` would be `admin`. So the certificate itself is read, once for all calls that come with it.
    """

    def __init__(self) -> None:
        import cryptography.x509  # noqa: F401  # now, and not while the first call waits

        self._known: dict[bytes, tuple[str, ...]] = {}

    def of(self, auth_context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
        """The names in the peer's certificate; none without one."""
        for pem in auth_context.get(CERTIFICATE, ()):
            names = self._known.get(pem)
            if names is None:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                names = self._known[pem] = names_in(pem)
            return names
        return ()


def names_in(pem: bytes) -> tuple[str, ...]:
    """The names in a certificate as `uri:…`, `dns:…` and `cn:…`, URIs first; an e-mail address is none.

    None at all where one of them has a character that can't be printed, or nothing can be made of the certificate: whoever signed
    that may have been fooled. Nor has a subject with several common names any, since readers differ in which of them counts.
    """
    # Not at the top: it is 10 MB of memory, which a server without clients' certificates does without.
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        common = [str(each.value) for each in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        try:
            other = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = other.get_values_for_type(x509.UniformResourceIdentifier)
            dns = other.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            uris, dns = [], []
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return ()
    names = [f"uri:{each}" for each in uris] + [f"dns:{each.lower()}" for each in dns]
    if len(common) == 1:
        names.append(f"cn:{common[0]}")
    if not all(each.isprintable() for each in (*names, *common)):
        return ()
    return tuple(each for each in names if len(each) <= MAX_NAME + len("uri:"))[:MAX_NAMES]


class Patterns:
    """Names that are believed, by patterns in which `*` stands for one part of a name."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_compiled(each) for each in patterns]
        self._known: dict[tuple[str, ...], bool] = {}

    def match(self, names: tuple[str, ...]) -> bool:
        """Whether one of the names is believed."""
        known = self._known.get(names)
        if known is None:
            known = any(pattern.fullmatch(name) for pattern in self._patterns for name in names)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[names] = known
        return known


def _compiled(pattern: str) -> re.Pattern[str]:
    kind, _, name = pattern.partition(":")
    if kind == "dns":
        name = name.lower()
    return re.compile(re.escape(f"{kind}:") + _PART[kind].join(map(re.escape, name.split("*"))))
