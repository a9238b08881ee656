"""Which URLs may be called: one table, read when a task is registered and again when it is delivered."""

from typing import Any

import pytest

from clockjack import webhooks
from clockjack.targets import BadTarget, Policy, judge, judge_address, read

PUBLIC = Policy()
INSIDE = Policy.of(["10.0.0.0/8", "127.0.0.0/8", "fd00::/8"])

NO_TARGETS = [
    *("", None, 7, "x", "//x", "/x", "http:x", "http:/x", "http://", "http:///x", "http://?x", "http://:80/"),
    *("ftp://example.com/", "file:///etc/passwd", "javascript:1", "gopher://x/", "unix:///x", "data:,x", "HTTPSS://x/"),
    *("http://user@example.com/", "http://user:pass@example.com/", "http://@example.com/", "http://a%40b@c/"),
    *("http://exa mple.com/", "http://example.com/\r\nX: y", "http://example.com\t/", "http://example.com/\x00"),
    *("http://example.com\\@127.0.0.1/", "http:\\\\example.com", "http://example.com/#x", "http://example.com#@b/"),
    *("http://example.com:0/", "http://example.com:65536/", "http://example.com:-1/", "http://example.com:8o/"),
    *("http://exam_ple..com/", "http://.example.com/", "http://example.com./", "http://-x.com/", "http://x-.com/"),
    *("http://a%2eb/", "http://127.0.0.1%00.example.com/", "http://example.com,b/", "http://*.example.com/"),
    *("http://[::1", "http://::1/", "http://[example.com]/", "http://[127.0.0.1]/", "http://[v1.x]/", "http://x[::1]/"),
    *("http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[::1]x/", "http://[]/"),
    "https://example.com/" + "x" * 2_048,
    "http://" + "a" * 64 + ".com/",
    # addresses as only some resolvers read them
    *("http://127.1/", "http://127.0.1/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0x/"),
    *("http://0177.0.0.1/", "http://017700000001/", "http://127.0.0.01/", "http://1.2.3/", "http://256.1.1.1/"),
    *("http://1.2.3.4.5/", "http://0/", "http://4294967296/", "http://example.0x10/", "http://①②⑦.1/"),
]
REFUSED = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.192"),
    *("192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1"),
    *("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "64:ff9b:1::808:808"),
    *("2002:7f00:1::", "2002:808:808::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:20::1"),
    *("2001:db8::1", "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1", "febf::1", "fec0::1", "ff02::1", "100::1"),
    *("5f00::1", "2606:2800:220:1:0:5efe:10.0.0.1", "2606:2800:220:1:200:5efe:7f00:1"),
]
ALLOWED = [
    *("93.184.216.34", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1"),
    *("198.17.0.1", "223.255.255.255", "2606:2800:220:1:248:1893:25c8:1946", "2a00:1450:4001:81b::200e"),
    *("64:ff9b::5db8:d822", "::ffff:93.184.216.34", "2001:200::1"),
]


def url_of(address: str) -> str:
    return f"https://[{address}]/" if ":" in address else f"https://{address}/"


def payload_of(address: str) -> dict[str, Any]:
    return {"url": url_of(address)}


@pytest.mark.parametrize("url", NO_TARGETS)
def test_what_no_setting_allows(url: Any) -> None:
    with pytest.raises(BadTarget):
        judge(read(url), Policy.of(["0.0.0.0/0", "::/0"]) if isinstance(url, str) and "①" not in url else PUBLIC)


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_public_is_refused_at_registration_and_at_delivery(address: str) -> None:
    with pytest.raises(BadTarget, match="not a public address"):
        judge(read(url_of(address)), PUBLIC)
    with pytest.raises(BadTarget, match="not a public address"):
        judge_address(read("https://example.com/"), address, PUBLIC)
    with pytest.raises(webhooks.BadCall, match=r"^url: .*not a public address"):
        webhooks.judge(payload_of(address))


@pytest.mark.parametrize("address", ALLOWED)
def test_what_is_public_is_allowed(address: str) -> None:
    judge(read(url_of(address)), PUBLIC)
    judge_address(read("https://example.com/"), address, PUBLIC)
    webhooks.judge(payload_of(address))


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "a.localhost", "①②⑦.0.0.1", "127。0。0。1"])
def test_names_that_are_the_machine_itself(name: str) -> None:
    with pytest.raises(BadTarget, match="loopback"):
        judge(read(f"http://{name}/"), PUBLIC)
    judge(read(f"http://{name}/"), INSIDE)


def test_a_zone_is_never_called() -> None:
    with pytest.raises(BadTarget, match="zone"):
        judge_address(read("https://example.com/"), "fe80::1%eth0", Policy.of(["::/0"]))


@pytest.mark.parametrize("address", ["10.1.2.3", "127.0.0.1", "fd12::1", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3"])
def test_networks_of_the_setting_are_called_at_any_port(address: str) -> None:
    target = read(url_of(address).removesuffix("/") + ":6379/")
    judge(target, INSIDE)
    judge_address(target, address, INSIDE)


@pytest.mark.parametrize("address", ["192.168.0.1", "2002:a00:1::", "2002:7f00:1::", "::1"])
def test_and_no_others(address: str) -> None:
    with pytest.raises(BadTarget):
        judge(read(url_of(address)), INSIDE)


@pytest.mark.parametrize("port", [22, 25, 3306, 6379, 9200, 8000])
def test_odd_ports_are_not_called_at_public_addresses(port: int) -> None:
    for host in ("example.com", "93.184.216.34", "[2606:2800:220:1:248:1893:25c8:1946]"):
        with pytest.raises(BadTarget, match=rf"port {port}.*80, 443"):
            judge(read(f"https://{host}:{port}/"), PUBLIC)
    judge(read(f"https://example.com:{port}/"), INSIDE)  # its address may be one of ours
    with pytest.raises(BadTarget, match="port"):
        judge_address(read(f"https://example.com:{port}/"), "93.184.216.34", INSIDE)
    judge(read(f"https://93.184.216.34:{port}/"), Policy.of([], [port]))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://Example.COM", ("example.com", 443, "/", "example.com")),
        ("http://example.com:8080/a?b=c&d=%20", ("example.com", 8080, "/a?b=c&d=%20", "example.com:8080")),
        ("https://bücher.example/ü?ü", ("xn--bcher-kva.example", 443, "/%C3%BC?%C3%BC", "xn--bcher-kva.example")),
        ("http://[2606:2800:0::1]:80/", ("2606:2800::1", 80, "/", "[2606:2800::1]")),
        ("https://example.com:443?x", ("example.com", 443, "/?x", "example.com")),
    ],
)
def test_what_is_connected_to_and_asked(url: str, said: tuple[Any, ...]) -> None:
    target = read(url)
    assert (target.host, target.port, target.path, target.netloc) == said


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (None, "needs an object"),
        ([], "needs an object"),
        ({}, "exactly one"),
        ({"url": "https://example.com/", "endpoint": "a"}, "exactly one"),
        ({"url": "https://example.com/", "method": "GET"}, "'method' is no field"),
        ({"endpoint": "a b"}, "endpoint:"),
        ({"endpoint": 7}, "endpoint:"),
        ({"url": "https://example.com/", "headers": []}, "headers: expected"),
        ({"url": "https://example.com/", "headers": {"a b": "x"}}, "no name of a header"),
        ({"url": "https://example.com/", "headers": {"A": "x\r\nB: y"}}, "printable"),
        ({"url": "https://example.com/", "headers": {"A": "x\ny"}}, "printable"),
        ({"url": "https://example.com/", "headers": {"A": "ü"}}, "printable"),
        ({"url": "https://example.com/", "headers": {"A": " x"}}, "printable"),
        ({"url": "https://example.com/", "headers": {"A": 7}}, "printable"),
        ({"url": "https://example.com/", "headers": {"A": "x", "a": "y"}}, "twice"),
        *(
            ({"url": "https://example.com/", "headers": {name: "x"}}, "nobody else")
            for name in ("Host", "content-length", "Transfer-Encoding", "connection", "Upgrade", "TE", "Proxy-Auth")
        ),
        *(
            ({"url": "https://example.com/", "headers": {name: "x"}}, "nobody else")
            for name in ("Idempotency-Key", "webhook-id", "Webhook-Signature", "webhook-timestamp")
        ),
    ],
)
def test_payloads_of_the_handler_http(payload: Any, words: str) -> None:
    with pytest.raises(webhooks.BadCall, match=words):
        webhooks.judge(payload)
    assert words in str(webhooks.fault(payload))


def test_sql_tasks_are_judged_without_their_address() -> None:
    """Whoever calls them knows what may be called there."""
    assert webhooks.fault({"url": "http://127.0.0.1:9000/"}) is None
    assert webhooks.fault({"endpoint": "orders"}) is None
