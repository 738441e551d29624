"""The operator's silences: made, listed and ended over the control socket, and in force from that moment on."""

from __future__ import annotations

import asyncio
import logging
import pwd
import re
import secrets
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.control import Takes
from watchdogd.entities import DAY_MS
from watchdogd.errors import StoreError, WatchdogdError
from watchdogd.listings import (
    EndSilenceRequest,
    SilenceMade,
    SilenceReport,
    SilenceRequest,
    SilencesReport,
    SilencesRequest,
)
from watchdogd.silences import Matcher, MatcherError, Silence, check_matchers, find_silence, parse_matcher
from watchdogd.store.silences import add_silence, end_silence, load_silences

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.control import Handler, Peer
    from watchdogd.entities import Alert
    from watchdogd.ports import Clock
    from watchdogd.store.database import Store
    from watchdogd.store.history import History

MOST_MS = 366 * DAY_MS
REASON_CHARACTERS = 500
MOST_RULES = 100
MOST_IN_FORCE = 1_000
SHOWN_TITLES = 5
LOOK_EVERY_S = 30.0

EVERYTHING = Matcher("rule", "=~", "(?s).*")
_NOBODY = 0xFFFF_FFFF
"""loginuid of who never logged in."""
_ANYTHING = ("", "x", "root", "/usr/bin/true", "0b5c6d7e-1f2a-4b3c-8d9e-0f1a2b3c4d5e", "Some Title, With: Signs")
"""A pattern that matches all of these says nothing about an alert."""
log = logging.getLogger("watchdogd.silences")


class SilenceDesk:
    """One per daemon. `run` is a task; `current` is what the pipeline goes by."""

    def __init__(
        self,
        store: Store,
        history: History,
        clock: Clock,
        make_id: Callable[[], str] = lambda: secrets.token_hex(4),
        name_user: Callable[[int], str | None] | None = None,
    ) -> None:
        self._store = store
        self._history = history
        self._clock = clock
        self._make_id = make_id
        self._name_user = name_user or look_up_user
        self._changed = asyncio.Event()
        self.current: tuple[Silence, ...] = ()
        """Silences that are still to end."""

    async def restore(self) -> None:
        """Go on with what is in the database. Raises StoreError."""
        self.current = tuple(one for one, _ in await load_silences(self._store, self._clock.now_ms()))

    def find(self, alert: Alert) -> str | None:
        """Id of the silence that covers this alert now, None where there is none."""
        found = find_silence(self.current, alert, self._clock.now_ms()) if self.current else None
        return None if found is None else found.id

    async def run(self) -> None:
        """Say of each silence when it ends, for ever."""
        while True:
            now_ms = self._clock.now_ms()
            over = [one for one in self.current if one.until_ms <= now_ms]
            self.current = tuple(one for one in self.current if one.until_ms > now_ms)
            for one in over:
                await self._tell_end(one, "is over")
            next_ms = min((one.until_ms for one in self.current), default=now_ms + MOST_MS)
            self._changed.clear()
            try:
                async with asyncio.timeout(min(LOOK_EVERY_S, max(0.05, (next_ms - now_ms) / 1000))):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def handlers(self) -> dict[str, Handler]:
        """For the control socket, by what is asked."""
        return {
            "silence": Takes(SilenceRequest, self.add, wants_peer=True),
            "silences": Takes(SilencesRequest, self.list_silences),
            "end_silence": Takes(EndSilenceRequest, self.end, wants_peer=True),
        }

    async def add(self, wanted: SilenceRequest, peer: Peer) -> SilenceMade:
        """Silence from now on. Raises WatchdogdError with what is wrong with it."""
        now_ms = self._clock.now_ms()
        reason = " ".join(wanted.reason.split())
        if not reason:
            raise WatchdogdError("a silence needs a reason: whoever finds it later must know what it is for")
        if len(reason) > REASON_CHARACTERS:
            raise WatchdogdError(f"a reason has {REASON_CHARACTERS} characters at most")
        if wanted.until_ms <= now_ms:
            raise WatchdogdError("a silence must end in the future")
        if wanted.until_ms > now_ms + MOST_MS:
            raise WatchdogdError("a silence lasts a year at most: what holds for longer is a filter beside the rules")
        if len(self.current) >= MOST_IN_FORCE:
            raise WatchdogdError(f"there are {MOST_IN_FORCE} silences in force already")
        matchers, notes = await self._read_matchers(wanted)
        silence = Silence(
            self._make_id(), matchers, now_ms, now_ms, wanted.until_ms, reason, describe_peer(peer, self._name_user)
        )
        await add_silence(self._store, silence)
        self.current = (*self.current, silence)
        self._changed.set()
        log.warning("silence %s by %s: %s (%s)", silence.id, silence.author, reason, _join(silence))
        trial = await self._history.try_out(silence.covers, now_ms - DAY_MS)
        titles = dict(Counter(trial.titles).most_common(SHOWN_TITLES))
        covered = len(trial.titles)
        return SilenceMade(self._report(silence, 0), trial.looked_at, trial.complete, covered, titles, tuple(notes))

    async def list_silences(self, wanted: SilencesRequest) -> SilencesReport:
        """Those in force, and with `ended` the others that are kept. Raises StoreError."""
        after_ms = None if wanted.ended else self._clock.now_ms()
        return SilencesReport(tuple(self._report(*found) for found in await load_silences(self._store, after_ms)))

    async def end(self, wanted: EndSilenceRequest, peer: Peer) -> SilenceReport:
        """End a silence now. Raises WatchdogdError where it is not known, or has ended."""
        prefix = wanted.silence_id.strip().lower()
        found = [one for one, _ in await load_silences(self._store) if prefix and one.id.startswith(prefix)]
        if len(found) != 1:
            said = f"{len(found)} silences have" if found else "no silence has"
            raise WatchdogdError(f"{said} an id that begins with {prefix!r}: `watchdogd silence list --all` shows them")
        silence = found[0]
        if not await end_silence(self._store, silence.id, self._clock.now_ms()):
            raise WatchdogdError(f"silence {silence.id} has ended already")
        self.current = tuple(one for one in self.current if one.id != silence.id)
        self._changed.set()
        muted = await self._tell_end(silence, f"was ended by {describe_peer(peer, self._name_user)}")
        return self._report(msgspec.structs.replace(silence, ended_ms=self._clock.now_ms()), muted)

    async def describe(self, silence_id: str) -> str:
        """A silence in words: what it covers, why, whose it is. Only its id where it is not kept any more."""
        for one, _ in await load_silences(self._store):
            if one.id == silence_id:
                return f"{one.id}: {one.reason} (by {one.author}; {_join(one)})"
        return silence_id

    async def _read_matchers(self, wanted: SilenceRequest) -> tuple[tuple[Matcher, ...], list[str]]:
        notes: list[str] = []
        try:
            matchers = [parse_matcher(text) for text in wanted.matchers]
            if wanted.rules:
                matchers.insert(0, await self._match_rules(wanted.rules, notes))
            if wanted.all_rules and not matchers:
                matchers = [EVERYTHING]
            read = check_matchers(matchers)
        except MatcherError as error:
            raise WatchdogdError(str(error)) from error
        if not wanted.all_rules and not any(map(is_narrow, read)):
            raise WatchdogdError("this would silence every alert: name a rule, a user or a program, or say --all-rules")
        return read, notes

    async def _match_rules(self, rules: tuple[str, ...], notes: list[str]) -> Matcher:
        """One matcher for all of them, each spelled as alerts spell it."""
        if len(rules) > MOST_RULES:
            raise WatchdogdError(f"more than {MOST_RULES} rules")
        known = await self._history.list_rules()
        spelled: list[str] = []
        for text in rules:
            wanted = text.strip().casefold()
            if not wanted:
                raise WatchdogdError("a rule is named by its id or title")
            found = {name for pair in known.items() for name in pair if name.casefold() == wanted}
            if not found:
                notes.append(f"no alert so far is of a rule with the id or title {text!r}: is it spelled like this?")
            spelled += sorted(found) or [text.strip()]
        if len(spelled) == 1:
            return Matcher("rule", "=", spelled[0])
        return Matcher("rule", "=~", "|".join(map(re.escape, spelled)))

    async def _tell_end(self, silence: Silence, what: str) -> int:
        try:
            muted = {one.id: count for one, count in await load_silences(self._store)}.get(silence.id, 0)
        except StoreError:
            muted = 0
        log.warning("silence %s %s: it muted %d alerts (%s)", silence.id, what, muted, silence.reason)
        return muted

    def _report(self, silence: Silence, muted: int) -> SilenceReport:
        ended = silence.ended_ms is not None or silence.until_ms <= self._clock.now_ms()
        return SilenceReport(
            silence.id,
            tuple(matcher.text() for matcher in silence.matchers),
            silence.created_ms,
            silence.until_ms if silence.ended_ms is None else min(silence.ended_ms, silence.until_ms),
            ended,
            silence.reason,
            silence.author,
            muted,
        )


def is_narrow(matcher: Matcher) -> bool:
    """Whether it says what an alert must have: what it must not have leaves nearly all of them, as does `.*`."""
    if matcher.operator == "=":
        return bool(matcher.value)
    if matcher.operator != "=~":
        return False
    import re2  # noqa: PLC0415 - only where a matcher has a pattern

    options = re2.Options()
    options.log_errors = False
    pattern = re2.compile(matcher.value.encode("utf-8", "backslashreplace"), options)
    return not all(pattern.fullmatch(text.encode()) for text in _ANYTHING[1:])


def describe_peer(peer: Peer, name_user: Callable[[int], str | None], proc: Path = Path("/proc")) -> str:
    """Who asks: `alice`, or `root (login alice)` through every sudo and su."""
    uid_name = name_user(peer.uid) or f"uid {peer.uid}"
    try:
        login = int((proc / str(peer.pid) / "loginuid").read_text())
    except (OSError, ValueError):
        return uid_name
    return uid_name if login in {_NOBODY, peer.uid} else f"{uid_name} (login {name_user(login) or f'uid {login}'})"


def look_up_user(uid: int) -> str | None:
    """An account's name on this host."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError, OverflowError):
        return None


def _join(silence: Silence) -> str:
    return " ".join(matcher.text() for matcher in silence.matchers)
