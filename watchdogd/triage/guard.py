"""What text from the watched host may do to a model, and what a model may say: nothing unchecked either way."""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
from typing import TYPE_CHECKING

from watchdogd.masking import mask_argv, mask_secrets
from watchdogd.triage.disguise import undisguise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

INJECTION = "injection suspected"
"""How `Verdict.error` begins where text of the event reads like an instruction to a model."""

_JUDGED_CHARS = 8192
_SHOWN_CHARS = 2048
"""Of longer strings only head and tail are judged, or cleaned to be shown: the cost is the same for any argv."""

# --- cleaning -----------------------------------------------------------------------------------------------

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])|\x9b[0-?]*[ -/]*[@-~]")
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def sanitize(text: str, cap: int) -> str:
    """Printable text of at most `cap` characters (cap >= 16).

    Terminal escapes, control, zero-width, bidirectional and unassigned characters become one space each run;
    of a longer text the head and the tail stay, and how many characters are missing stands between them.
    """
    return shorten(_printable(_bound(text, _SHOWN_CHARS)), cap, lost=max(0, len(text) - _SHOWN_CHARS))


def shorten(text: str, cap: int, *, lost: int = 0) -> str:
    """`text` within `cap` characters: two thirds head, one third tail, and the number left out between."""
    if len(text) <= cap and not lost:
        return text
    keep = min(len(text), max(cap - 16, 0))
    head = keep - keep // 3
    tail = text[len(text) - keep // 3 :]
    return f"{text[:head]}..(+{len(text) - keep + lost}).." + tail


def _bound(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = limit // 4
    return text[: limit - tail] + text[-tail:]


def _printable(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    text = _ANSI.sub(" ", text)
    kept = (" " if unicodedata.category(char) in _UNPRINTABLE else char for char in text)
    return re.sub(" {2,}", " ", "".join(kept))


# --- secrets ------------------------------------------------------------------------------------------------


_RECALLED = 1024
_RECALLED_CHARS = 512


def join_argv(argv: Sequence[str]) -> str:
    """The command line as one string, its secrets masked argument by argument; the rest is for `clean`."""
    if len(argv) + sum(map(len, argv)) <= _RECALLED_CHARS:
        return _recall_joined(tuple(argv))
    return " ".join(mask_argv(argv))


@functools.lru_cache(maxsize=_RECALLED)
def _recall_joined(argv: tuple[str, ...]) -> str:
    """Ancestors are the same for alert after alert."""
    return " ".join(mask_argv(argv))


def clean(text: str, cap: int) -> str:
    """Secrets masked first, then sanitised: a cap never cuts a secret in two before it is seen."""
    return shorten(mask_shown(text), cap, lost=max(0, len(text) - _SHOWN_CHARS))


def mask_shown(text: str) -> str:
    """What of `text` may be shown, before it is shortened."""
    return mask_secrets(_printable(_bound(text, _SHOWN_CHARS)))


_recall_masked = functools.lru_cache(maxsize=_RECALLED)(mask_shown)
"""Paths, commands and the examples come again in question after question."""


class Cleaner:
    """`clean` for the many lengths that one question may try; each text is masked once."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self.shortened = 0
        """Texts that were longer than they might be."""

    def __call__(self, text: str, cap: int) -> str:
        """As `clean`."""
        shown = self._shown.get(text)
        if shown is None:
            shown = _recall_masked(text) if len(text) <= _RECALLED_CHARS else mask_shown(text)
            self._shown[text] = shown
        if len(shown) <= cap and len(text) <= _SHOWN_CHARS:
            return shown
        kept = shorten(shown, max(cap, 16), lost=max(0, len(text) - _SHOWN_CHARS))
        self.shortened += kept is not shown
        return kept


# --- injection ----------------------------------------------------------------------------------------------

_OVERRIDE = (
    r"(?:ignor\w*|disregard\w*|forget\w*|overrid\w*|bypass\w*|olvid\w*|omit[aei]\w*|vergiss|missachte|"
    r"oublie\w*|esque[cç]\w*)"
)
_ORDERS = (
    r"(?:instru[ckçz]\w*|guidelines?|directi\w+|directrices|anweisung\w*|consignes?|orders|vorgaben|"
    r"(?:previous|prior|above|earlier|system|the|this|your) prompts?)"
)
_RULES = r"(?:rules?|reglas?|regeln|regles?|règles?|regras?|alerts?|alertas?|policy|policies|context)"
_QUANTIFIER = (
    r"(?:all|any|every|previous|prior|earlier|above|preceding|your|todas?|todos|las?|anteriores|alle|toutes?|les)"
)
_SAY = (
    r"(?:verdict|veredicto|verdikt|label|etiqueta|classif\w+|clasifi\w+|klassifizier\w*|class[eé]\w*|answer|respond\w*|"
    r"respon[ds]\w*|antwort\w*|r[eé]pond\w*|reply|output|say|return|mark|treat|consider|triage)"
)
_HARMLESS = (
    r"(?:benign\w*|b[eé]nin\w*|harmless|innocuous|inofensiv\w*|gutartig\w*|harmlos\w*|false positive|falso positivo)"
)
_WORDS = r"(?: \S+){0,%d}? "
_INSTRUCTIONS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("tells the reader to ignore its instructions", re.compile(rf"\b{_OVERRIDE}\b{_WORDS % 5}{_ORDERS}\b")),
    ("tells the reader to ignore rules", re.compile(rf"\b{_OVERRIDE}(?: {_QUANTIFIER}){{1,3}} (?:\w+ )?{_RULES}\b")),
    ("carries a ready-made verdict", re.compile(rf"\b{_SAY}\b{_WORDS % 5}{_HARMLESS}\b")),
    (
        "speaks to a language model",
        re.compile(
            r"\b(?:you are (?:now )?(?:an?|the) (?:\w+ ){0,2}(?:assistant|analyst|model|ai|bot)|as an ai\b|"
            r"(?:large )?language model\b|system prompt\b|new instructions?\b|prompt injection|"
            r"eres un (?:asistente|analista|modelo)|du bist ein (?:assistent|modell))"
        ),
    ),
    (
        "forbids to report",
        re.compile(
            r"\b(?:do not|don t|never|no debes|nicht) (?:explain|alert|escalate|flag|report (?:this|it)|raise)\b|"
            r"\b(?:authori[sz]ed|approved|autorizad[ao]) (?:maintenance|security test|penetration test|mantenimiento)\b"
        ),
    ),
)
# In the languages above and in those that write no spaces: "ignore ... instructions" and "answer benign".
_FOREIGN = re.compile(
    r"(?:dimentica|negeer|vergeet|zignoruj|zapomnij|ignorer[ae]|ignoruj|ignor[ăeu]|neglege|yok say|bỏ qua|abaikan|"
    r"ohita|figyelmen k[ií]v[uü]l|игнорируй|забудь|ігноруй|忽略|忘记|無視|忘れて|무시|تجاهل|نادیده|התעלם|अनदेखा|αγνόησε|"
    r"เพิกเฉย).{0,60}(?:benign|istruzion|instructi|instrukc|instrukt|instrucțiun|pokyn|zasad|regole|regels|mandata|"
    r"chỉ dẫn|instruksi|ohjeet|utas[ií]t|инструкци|інструкці|правила|指令|规则|指示|ルール|지시|تعليمات|דستور|הוראות|"
    r"दिशा|निर्देश|οδηγίες|คำสั่ง)|"
    r"(?:talimat|これまで|이전의|पिछले|تمام|önceki).{0,60}(?:yok say|無視|忽略|무시|अनदेखा|نادیده)|"
    r"(?:回答|答えて|답하|أجب|ענה|उत्तर|trả lời|jawab|svara|απάντησε|odpověz|vastaa|válaszolj|răspunde|ตอบ|پاسخ|"
    r"rispondi|antwoord|odpowiedz|ответь|відповідай|yan.t\w*|responde?).{0,20}benign|"
    r"benign.{0,20}(?:と答え|이라고|उत्तर|yan.t|标记|標記)|"
    r"(?:标记为|判定|标为).{0,8}无害|無害と|безвредн\w*|innocuo|onschuldig|nieszkodliw\w*"
)
_MARKERS = re.compile(
    r"<\|[a-z_]{3,20}\|>|</?(?:s|start_of_turn|end_of_turn)>|<(?:start|end)_of_turn>|\n\s{0,4}(?:human|user)\s?:\s|"
    r"\[/?inst\]|<</?sys>>|"
    r"</?(?:tool_?(?:result|response|call|output)s?|function_(?:result|call)s?|system(?:_prompt)?|assistant|"
    r"instructions?|alert|evidence|verdict|triage)>|"
    r"(?:^|[\n#\"'>;])\s{0,4}(?:system|assistant|developer)\s{0,2}:\s{1,4}\w+(?:\s+\w+){2,}|"
    r"#{2,}\s{0,3}(?:system|instructions?|assistant|response)\b|"
    r"[\"'](?:verdict|label)[\"']\s{0,3}:\s{0,3}[\"'](?:benign|malicious|suspicious)",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){16,}")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2})")
_SEPARATORS = re.compile(r"[\W_]+")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_MIN_PRINTABLE = 0.85


def looks_like_instruction(text: str) -> str | None:
    """Why `text` reads as if it were addressed to a language model (a short phrase of ours), else None.

    Looks through zero-width characters, separators (file names) and disguises (triage/disguise.py), one layer deep;
    English, Spanish, German, French and Portuguese, and the plainest orders in some twenty-five more. A sieve, no
    proof: what it misses is held by the floor of the policy, and by the scorer, without which nothing is `benign`.
    """
    bounded = _bound(text, _JUDGED_CHARS)
    for candidate in (bounded, *undisguise(bounded)):
        folded = _INVISIBLE.sub("", unicodedata.normalize("NFKC", candidate)).casefold()
        folded = _ANSI.sub(" ", folded)
        if _MARKERS.search(folded):
            return "carries chat or tool markup"
        words = _SEPARATORS.sub(" ", folded)
        for reason, pattern in _INSTRUCTIONS:
            if pattern.search(words):
                return reason
        if _FOREIGN.search(folded):
            return "tells the reader what to answer, in another language"
    return None


def find_instruction(texts: Iterable[str]) -> str | None:
    """The first reason that `looks_like_instruction` finds in any of `texts`."""
    for text in dict.fromkeys(texts):
        reason = _recall_judgement(text) if len(text) <= _RECALLED_CHARS else looks_like_instruction(text)
        if reason:
            return reason
    return None


_recall_judgement = functools.lru_cache(maxsize=_RECALLED)(looks_like_instruction)
"""Paths and commands come again in alert after alert."""


# --- grounding ----------------------------------------------------------------------------------------------

_PATH = re.compile(r"(?<![\w/.~])(?:~|\.{1,2})?/[^\s\"'`,;:()<>\[\]{}|*?!]+")
_ADDRESS = re.compile(
    r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)|"
    r"(?<![\w.:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"
)
_NUMBER = re.compile(r"\d+")
_TECHNIQUE = re.compile(r"T\d{4}(?:\.\d{3})?")


def find_ungrounded(said: str, evidence: str) -> tuple[str, ...]:
    """Every path, address and number (PIDs, ports, sizes) of `said` that `evidence` does not hold, in order.

    A path counts as held where the evidence has it whole or as a leading part at a `/`; a number only as a
    whole number; addresses are compared by value, so that `::1` is `0:0:0:0:0:0:0:1`.
    """
    said = unicodedata.normalize("NFKC", said)
    missing = [path for path in _paths(said) if not _holds_path(evidence, path)]
    if claimed := tuple(_addresses(said)):
        held = set(_addresses(evidence))
        missing += [str(address) for address in claimed if address not in held]
    if numbers := _NUMBER.findall(said):
        known = set(_NUMBER.findall(evidence))
        missing += [number for number in numbers if number not in known]
    return tuple(dict.fromkeys(missing))


def supported_techniques(claimed: Iterable[str], supported: Sequence[str]) -> tuple[str, ...]:
    """The claimed ATT&CK ids that have an id's shape and that `supported` holds, each once, in order."""
    upper = (claim.strip().upper() for claim in claimed)
    return tuple(dict.fromkeys(c for c in upper if _TECHNIQUE.fullmatch(c) and c in supported))


def _paths(text: str) -> Iterator[str]:
    for hit in _PATH.finditer(text):
        path = hit[0].rstrip("./") if len(hit[0]) > 1 else ""
        if path:
            yield path


def _holds_path(evidence: str, path: str) -> bool:
    return re.search(rf"(?<![\w/]){re.escape(path)}(?![\w-]|\.\w)", evidence) is not None


def _addresses(text: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    for hit in _ADDRESS.finditer(text):
        try:
            yield ipaddress.ip_address(hit[0])
        except ValueError:
            continue
