"""Socket addresses as SOCKADDR records carry them: `struct sockaddr`, as it stood in memory, in hex."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop
from typing import Final, Literal

import msgspec

from watchdogd.decode import tables

_UNIX: Final = 1
_INET: Final = 2
_INET6: Final = 10
_AX25: Final = 3
_ATMPVC: Final = 8
_X25: Final = 9
_NETLINK: Final = 16
_TOO_SHORT: Final = {
    _INET: "sockaddr len too short",
    _INET6: "sockaddr6 len too short",
    _NETLINK: "len too short",
}
_MIN_INET: Final = 8
_MIN_INET6: Final = 24
_MIN_NETLINK: Final = 12
_MIN_AX25: Final = 9
_MIN_ATMPVC: Final = 8
_X25_CHARS: Final = 15
_INET_DOTS: Final = 3
_MAPPED: Final = "::ffff:"


class SocketAddress(msgspec.Struct, frozen=True):
    """A decoded address. `family` is libaudit's name (`inet`, `local`...); what a family lacks is None."""

    family: str
    address: str | None = None
    port: int | None = None
    path: str | None = None
    """Unix socket; an abstract name begins with `@`."""
    netlink: tuple[int, int] | None = None
    """Family and pid."""
    other: str | None = None
    """What else libaudit knows of rarer families, as it prints it; empty where it knows nothing."""


def decode_sockaddr(text: str) -> SocketAddress | None:  # noqa: PLR0911 - one for each family
    """Address of a raw `saddr` value, None where it is no hex or too short.

    The family is in the byte order of the recording host: one of its two bytes is 0, so that either order is known.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    if len(data) < 2:  # noqa: PLR2004 - the family alone
        return None
    little = data[0] != 0 or data[1] == 0
    family = int.from_bytes(data[:2], "little" if little else "big")
    if family == _INET and len(data) >= _MIN_INET:
        return SocketAddress("inet", inet_ntop(AF_INET, data[4:8]), int.from_bytes(data[2:4], "big"))
    if family == _INET6 and len(data) >= _MIN_INET6:
        return SocketAddress("inet6", inet_ntop(AF_INET6, data[8:24]), int.from_bytes(data[2:4], "big"))
    if family == _UNIX:
        return SocketAddress("local", path=_decode_unix(data[2:]))
    name = tables.load_tables().names["family"].get(str(family), f"unknown-family({family})")
    if family == _NETLINK and len(data) >= _MIN_NETLINK:
        return SocketAddress(name, netlink=(family, int.from_bytes(data[4:8], "little" if little else "big")))
    if family in _TOO_SHORT:
        return SocketAddress(name, other=_TOO_SHORT[family])
    return SocketAddress(name, other=_describe_rare(family, data, "little" if little else "big"))


def unmap(address: str | None) -> str | None:
    """An IPv4 address that came through an IPv6 socket (`::ffff:10.0.0.1`) as what it is; others as they are."""
    if address is None or not address.lower().startswith(_MAPPED):
        return address
    rest = address[len(_MAPPED) :]
    return rest if rest.count(".") == _INET_DOTS else address


def _describe_rare(family: int, data: bytes, order: Literal["little", "big"]) -> str:
    if family == _AX25 and len(data) >= _MIN_AX25:
        return "call=" + data[2:_MIN_AX25].decode("ascii", "backslashreplace")
    if family == _ATMPVC and len(data) >= _MIN_ATMPVC:
        return f"int={int.from_bytes(data[4:6], order, signed=True)}"
    if family == _X25:
        return "laddr=" + data[2:].partition(b"\0")[0][:_X25_CHARS].decode("ascii", "backslashreplace")
    return "(unsupported)"


def _decode_unix(data: bytes) -> str:
    if data[:1] == b"\0":
        name = data[1:].rstrip(b"\0").replace(b"\0", b"@")
        return "@" + name.decode("utf-8", "backslashreplace") if name else ""
    return data.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def describe_address(address: SocketAddress) -> str:
    """One line as ausearch -i prints it."""
    if address.port is not None:
        return f"{{ saddr_fam={address.family} laddr={address.address} lport={address.port} }}"
    if address.path is not None:
        return f"{{ saddr_fam={address.family} path={address.path} }}"
    if address.netlink is not None:
        return f"{{ saddr_fam={address.family} nlnk-fam={address.netlink[0]} nlnk-pid={address.netlink[1]} }}"
    if address.family == "unspec":
        return "unknown-family(0)"
    return f"{{ saddr_fam={address.family} {address.other} }}" if "(" not in address.family else address.family
