"""Who may ask what, how often."""

from __future__ import annotations

import pytest

from watchdogd.api.access import LOCAL, NOBODY, Gate, Rates, Scope
from watchdogd.api_settings import ApiSettings, TokenSettings, complain_listen, split_listen

SETTINGS = ApiSettings(
    listen="127.0.0.1:8000",
    hosts=("watch.example.org",),
    tokens=(
        TokenSettings(name="a", token_file="a", token="secret-of-a-secret"),
        TokenSettings(name="b", token_file="b", token="secret-of-b-secret", scope="write"),
        TokenSettings(name="lost", token_file="c", token=None),
    ),
)


class StillClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.s = 0.0

    def monotonic_s(self) -> float:
        return self.s

    def now_ms(self) -> int:
        return int(self.s * 1000)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.mark.parametrize(
    ("header", "name", "scope"),
    [
        ("Bearer secret-of-a-secret", "a", Scope.READ),
        ("bearer  secret-of-b-secret ", "b", Scope.WRITE),
        ("Bearer secret-of-a-secre", "nobody", Scope.NOBODY),
        ("Bearer ", "nobody", Scope.NOBODY),
        ("Bearer", "nobody", Scope.NOBODY),
        ("Basic c2VjcmV0", "nobody", Scope.NOBODY),
        ("secret-of-a-secret", "nobody", Scope.NOBODY),
        ("Bearer \udcff\udcfe", "nobody", Scope.NOBODY),
        ("Bearer " + "x" * 100_000, "nobody", Scope.NOBODY),
    ],
)
def test_a_token_names_its_bearer(clock: StillClock, header: str, name: str, scope: Scope) -> None:
    principal = Gate(SETTINGS, clock, is_local=False).identify({"authorization": header})
    assert (principal.name, principal.scope) == (name, scope)


def test_a_token_that_was_not_read_lets_nobody_in(clock: StillClock) -> None:
    gate = Gate(SETTINGS, clock, is_local=False)
    assert gate.identify({}) is NOBODY
    assert gate.identify({"authorization": "Bearer None"}) is NOBODY


def test_who_may_open_the_socket_may_everything(clock: StillClock) -> None:
    assert Gate(SETTINGS, clock, is_local=True).identify({}) is LOCAL


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ({"host": "127.0.0.1:8000"}, True),
        ({"host": "LOCALHOST:8000"}, True),
        ({"host": "watch.example.org"}, True),
        ({"host": "watch.example.org:8000", "origin": "https://watch.example.org"}, True),
        ({"host": "127.0.0.1:8001"}, False),
        ({"host": "evil.example.org"}, False),
        ({"host": ""}, False),
        ({}, False),
        ({"host": "127.0.0.1:8000", "origin": "https://evil.example.org"}, False),
        ({"host": "127.0.0.1:8000", "origin": "null"}, False),
        ({"host": "127.0.0.1:8000", "sec-fetch-site": "cross-site"}, False),
        ({"host": "127.0.0.1:8000", "sec-fetch-site": "same-origin"}, True),
    ],
)
def test_browsers_are_not_led_here(clock: StillClock, headers: dict[str, str], fine: bool) -> None:  # noqa: FBT001
    assert (Gate(SETTINGS, clock, is_local=False).complain_origin(headers) is None) is fine


def test_a_page_of_another_origin_cannot_use_the_socket_either(clock: StillClock) -> None:
    gate = Gate(SETTINGS, clock, is_local=True)
    assert gate.complain_origin({"host": "whatever"}) is None
    assert gate.complain_origin({"host": "x", "origin": "https://evil.example.org"}) is not None


def test_rates_fill_again_with_time(clock: StillClock) -> None:
    rates = Rates(2, clock)
    assert [rates.take("a"), rates.take("a")] == [0.0, 0.0]
    assert rates.take("a") == pytest.approx(30.0)
    assert rates.take("b") == 0.0
    clock.s = 29.0
    assert rates.take("a") == pytest.approx(1.0)
    clock.s = 31.0
    assert rates.take("a") == 0.0


def test_names_that_nobody_has_fill_no_memory(clock: StillClock) -> None:
    rates = Rates(2, clock)
    for number in range(2000):
        rates.take(str(number))
    assert len(rates._left) <= 256


@pytest.mark.parametrize("good", ["", "127.0.0.1:8000", "[::1]:8000", "0.0.0.0:1", "10.0.0.1:65535"])
def test_where_one_can_listen(good: str) -> None:
    assert complain_listen(good) is None


@pytest.mark.parametrize("bad", ["8000", ":8000", "localhost:8000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",
                                 "127.0.0.1:65536", "::1:8000", "[::1]", "[127.0.0.1]:80", "127.0.0.1:²"])  # fmt: skip
def test_where_one_cannot(bad: str) -> None:
    assert complain_listen(bad) is not None


def test_an_address_is_split() -> None:
    assert split_listen("[::1]:8000") == ("::1", 8000)
