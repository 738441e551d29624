"""What texts are looked up in: by hash, by one automaton for all their parts, by RE2's filter for patterns.

Sets of rules are whole numbers with a bit for each rule and each of its sets of atoms: a rule is found where all of its
bits are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import re2

from watchdogd.match.index import BASE, PART, PATTERN, WHOLE, Atom

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Mapping, Sequence

    from watchdogd.match.index import Atoms

_DEPTH = 3
"""How many sets of atoms of a rule are asked for; the rule itself is asked in any case."""
_AUTOMATON_BYTES = (128 << 10, 512 << 10, 2 << 20, 8 << 20, 32 << 20, 256 << 20)
"""What RE2 may take, the least that will do: it fills its room with states and then begins anew."""


class Masks:
    """Bits of rules. `lacking` are those of rules with fewer sets of atoms than there is room for."""

    def __init__(self, clauses_by_number: Mapping[int, Sequence[Atoms]]) -> None:
        self._numbers = list(clauses_by_number)
        size = self._size = len(self._numbers)
        self._first = (1 << size) - 1
        self.all = (1 << size * _DEPTH) - 1
        self._lacking = 0
        self.atoms: dict[Atom, int] = {}
        for place, clauses in enumerate(clauses_by_number.values()):
            for level in range(_DEPTH):
                bit = 1 << (level * size + place)
                if level >= len(clauses):
                    self._lacking |= bit
                    continue
                for atom in clauses[level]:
                    self.atoms[atom] = self.atoms.get(atom, 0) | bit
        self._always = self._lacking & self._first

    def list_rules(self, found: int) -> Sequence[int]:
        """Numbers of the rules of which all bits were found."""
        size = self._size
        if not (found & self._first or self._always):
            return ()
        found |= self._lacking
        whole = found & (found >> size) & (found >> 2 * size) & self._first
        numbers = []
        while whole:
            lowest = whole & -whole
            numbers.append(self._numbers[lowest.bit_length() - 1])
            whole ^= lowest
        return numbers


class Parts:
    """Finds which of many texts occur in a text, all in one pass."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._size = len(texts)
        built = (_build_automaton(texts, limit) for limit in _AUTOMATON_BYTES)
        self._set = next((automaton for automaton in built if automaton is not None), None)

    def find(self, folded: str) -> Iterable[int]:
        """Places of the texts that occur; all of them where RE2 has refused to build the automaton."""
        return range(self._size) if self._set is None else self._set.Match(_encode(folded)) or ()


def _build_automaton(texts: Sequence[str], limit_bytes: int) -> re2.Set | None:
    """None where RE2 has not the room for it; it needs that of 20 states, and fails silently without."""
    options = re2.Options()
    options.literal = True
    options.never_capture = True
    options.log_errors = False
    options.max_mem = limit_bytes
    automaton = re2.Set.SearchSet(options)
    for text in texts:
        automaton.Add(_encode(text))
    try:
        automaton.Compile()
    except re2.error:
        return None
    works = all(place in (automaton.Match(_encode(text)) or ()) for place, text in enumerate(texts))
    return automaton if works else None


class Patterns:
    """Finds which of many regular expressions match, sought only where texts occur that they cannot do without."""

    def __init__(self, masks: Mapping[str, int]) -> None:
        self._masks = list(masks.values())
        self._filter = re2.Filter()
        options = re2.Options()
        options.log_errors = False
        for pattern in masks:
            self._filter.Add(pattern, options)
        self._filter.Compile()

    def find(self, text: str) -> int:
        """Bits of the patterns that match; a lone surrogate is matched as `pattern_matcher` does."""
        found = 0
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            encoded = text.encode("utf-8", "backslashreplace")
        for place in self._filter.Match(encoded) or ():
            found |= self._masks[place]
        return found


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class Table:
    """What is looked up in one field."""

    def __init__(self) -> None:
        self.whole: dict[str, int] = {}
        self._base: dict[str, int] = {}
        self.part: dict[str, int] = {}
        self._pattern: dict[str, int] = {}
        self._part_masks: list[int] = []
        self._parts: Parts | None = None
        self._patterns: Patterns | None = None
        self.has_whole = True
        """False where nothing but parts was added."""
        self.sees_quotes = True
        """False where no text that holds a quote has any bit, its parts left aside."""

    def add(self, atom: Atom, mask: int) -> None:
        """One more atom, with the bits of its rules."""
        texts = {WHOLE: self.whole, BASE: self._base, PART: self.part, PATTERN: self._pattern}[atom.kind]
        texts[atom.text] = texts.get(atom.text, 0) | mask

    def close(self) -> None:
        """Make ready: nothing is added from now on."""
        self._part_masks = list(self.part.values())
        self._parts = Parts(list(self.part)) if self.part else None
        self.close_whole()

    def close_whole(self) -> None:
        """Make all ready but the automaton of parts: where they are sought otherwise."""
        self._patterns = Patterns(self._pattern) if self._pattern else None
        self.has_whole = bool(self.whole or self._base or self._pattern)
        self.sees_quotes = bool(self._pattern) or any('"' in text for text in (*self.whole, *self._base))

    def find(self, text: str) -> int:
        """Bits of all that the text holds."""
        found = self.find_whole(text)
        if self._parts is not None:
            for place in self._parts.find(text.casefold()):
                found |= self._part_masks[place]
        return found

    def find_whole(self, text: str) -> int:
        """Bits of all but its parts."""
        folded = text.casefold()
        found = self.whole.get(folded, 0)
        if self._base:
            found |= self._base.get(folded.rpartition("/")[2], 0)
        if self._patterns is not None:
            found |= self._patterns.find(text)
        return found

    def find_possible(self, possible: re.Pattern[str]) -> int:
        """Bits of what a number, or its interpretation, might hold; both are of these characters alone."""
        found = 0
        for texts in (self.whole, self._base, self.part):
            for text, mask in texts.items():
                if possible.fullmatch(text):
                    found |= mask
        for mask in self._pattern.values():
            found |= mask
        return found
