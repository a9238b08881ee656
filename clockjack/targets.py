"""Which URLs may be called: by their form, by the address, by the port. Pure: no name is looked up here.

Everything is refused that is not known to be a public address, whatever it is written as. The settings list networks
that may be called besides. Judged when a task is registered (what the URL itself says) and at every delivery (each
address that its name has then).
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2_048
PORTS = (80, 443, 8080, 8443)
IN_PATHS = "/?&=%:;,+~@!$'()*[]"
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_WHY = {
    "0.0.0.0/8": "unspecified",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared (CGNAT)",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "a cloud's own",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "a 6to4 relay",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "for benchmarks",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
    "::/128": "unspecified",
    "::1/128": "loopback",
    "2001::/32": "Teredo",
    "2001::/23": "reserved",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "3fff::/20": "documentation",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
_NEVER = [(ipaddress.ip_network(text), why) for text, why in _WHY.items()]
_ROUTED = ipaddress.ip_network("2000::/3")
_MAPPED, _NAT64 = ipaddress.ip_network("::ffff:0:0/96"), ipaddress.ip_network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)


class BadTarget(ValueError):
    """The URL cannot be called; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is connected to, and what is asked for there. `host` is ASCII, in small letters, without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """What the header Host says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be called: public addresses at `ports`, the networks `allowed` at any port."""

    allowed: tuple[Network, ...] = ()
    ports: tuple[int, ...] = PORTS

    @classmethod
    def of(cls, allowed: Iterable[str], ports: Iterable[int] = PORTS) -> "Policy":
        """From texts, as the settings have them."""
        return cls(tuple(ipaddress.ip_network(text, strict=False) for text in allowed), tuple(ports))


def read(url: object) -> Target:
    """The parts of a URL from which a request is made; BadTarget when it is none that could be called.

    Parsed once, here: what is connected to and what is sent is built from these parts and never from the text.
    """
    if not isinstance(url, str) or not url:
        raise BadTarget("expected an http(s) URL")
    if len(url) > MAX_URL:
        raise BadTarget(f"the URL has more than {MAX_URL} characters")
    if not url.isprintable() or any(c.isspace() or c == "\\" for c in url):
        raise BadTarget("the URL has a space, a backslash or a character that cannot be printed")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadTarget("the URL cannot be read") from None
    if parts.scheme not in ("http", "https") or not url.lower().startswith(f"{parts.scheme}://"):
        raise BadTarget("the URL must begin with https:// or http://")
    if "@" in parts.netloc:
        raise BadTarget("the URL must have no user or password; put a secret into the headers of an endpoint")
    if "#" in url:
        raise BadTarget("the URL must have no fragment: it would not be sent")
    if port == 0:
        raise BadTarget("the URL has the port 0")
    host = _host(parts.netloc, parts.hostname or "")
    path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=IN_PATHS)
    return Target(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path)


def judge(target: Target, policy: Policy) -> None:
    """Nothing speaks against the target as it is written; BadTarget otherwise. A name is judged when it is called."""
    if target.host == "localhost" or target.host.endswith(".localhost"):
        judge_address(target, "127.0.0.1", policy)
    elif (address := literal(target.host)) is not None:
        judge_address(target, str(address), policy)
    elif target.port not in policy.ports and not policy.allowed:
        raise BadTarget(_port_words(target, policy))


def judge_address(target: Target, text: str, policy: Policy) -> None:
    """The target may be called at this address, one of those that its name has; BadTarget otherwise."""
    if "%" in text:
        raise BadTarget(f"{target.host} is {text}: an address of a zone is never called")
    address = ipaddress.ip_address(text)
    if _listed(address, policy.allowed):
        return
    if why := _why_not(address):
        raise BadTarget(f"{target.host} is {why}, not a public address: CLOCKJACK_HTTP_ALLOW lists what else is called")
    if target.port not in policy.ports:
        raise BadTarget(_port_words(target, policy))


def _port_words(target: Target, policy: Policy) -> str:
    ports = ", ".join(map(str, policy.ports))
    return f"port {target.port} is not called at public addresses: CLOCKJACK_HTTP_PORTS has {ports}"


def _host(netloc: str, host: str) -> str:
    """The host as it is looked up: IDNA for names, the shortest form for IPv6 addresses."""
    if "[" in netloc or "]" in netloc:
        inside = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](:[0-9]*)?", netloc)
        try:
            return str(ipaddress.IPv6Address(inside[1] if inside else ""))
        except ValueError:
            raise BadTarget("the address between brackets is no IPv6 address; one with a zone is not called") from None
    try:
        host = (host if host.isascii() else host.encode("idna").decode()).lower()
    except UnicodeError:
        raise BadTarget("the host is no name that could be looked up") from None
    labels = host.split(".")
    if not host or len(host) > 253 or not all(LABEL.fullmatch(label) for label in labels):
        raise BadTarget("the host is no name that could be looked up")
    if NUMBER.fullmatch(labels[-1]) and literal(host) is None:  # resolvers read 0x7f.1, 017700000001, 127.1
        raise BadTarget("an IPv4 address is written as four decimal numbers")
    return host


def literal(host: str) -> Address | None:
    """The address that the host is, if it is one."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that is reached through this IPv6 one: mapped, or by NAT64."""
    if isinstance(address, ipaddress.IPv6Address) and (address in _MAPPED or address in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _listed(address: Address, allowed: Iterable[Network]) -> bool:
    both = (address, _carried(address))
    return any(one in network for network in allowed for one in both if one and one.version == network.version)


@lru_cache(4096)
def _why_not(address: Address) -> str | None:
    """What the address is, when it is not public."""
    if (inner := _carried(address)) is not None:
        return _why_not(inner)
    for network, why in _NEVER:
        if address.version == network.version and address in network:
            return f"{why} ({address})"
    if isinstance(address, ipaddress.IPv6Address):
        if address not in _ROUTED:
            return f"reserved ({address})"
        if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return f"a tunnel into IPv4 ({address})"
    return None
