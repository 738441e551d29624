"""`make train-scorer`: fits the embedded scorer's weights to the recorded development set and writes weights.json.

Learnt from: alerts of our rules, and of SigmaHQ's, for ordinary work hardly ever raises one of ours. Every scenario
counts the same within its population and kind. Names seen in few families are left out, the ridge is strong, what an
attacker could add never speaks for him. Calibration and thresholds come from scores that each family got by weights
which were fitted without it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from evaluation.logistic import Fit, Row, chance, fit
from evaluation.population import Case, Told, gather_single
from watchdogd.entities import Level
from watchdogd.triage.scorer import Scorer, Weights
from watchdogd.triage.traits import may_lower

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "watchdogd" / "triage" / "weights.json"
RIDGE = 5.0
HELD = {"rule:": 4 * RIDGE, "tactic:": 4 * RIDGE, "token:": 12 * RIDGE}
"""What is known of few scenarios each moves less."""
CALIBRATION_RIDGE = 0.1
LEAST_FAMILIES = 3
ARTEFACTS = ("interactive", "actor:")
"""How the recordings were made: nearly all attacks were typed at a terminal, nearly all ordinary work that our rules
speak up about ran without one. On other hosts administrators sit at terminals, too."""
TOKENS = ("path:", "flag:")
"""Words, programs and what is above them are wording and habit of these recordings; the traits know the rest."""
SHARE = 60.0
"""What each kind of a population counts for in all: as many scenarios."""
RECALL = 0.98
MALICIOUS_FROM = 0.7
STEP = "step:"
"""From one level of a rule to the next."""
LEAST_TOKEN = 0.05
BY_HAND = {
    "altered": 1.5,
    "below:configuration_management": -0.8,
    "below:database_server": 1.0,
    "below:package_manager": -1.0,
    "command:device": 1.0,
    "command:encoded": 0.5,
    "command:piped": 1.0,
    "instruction": 2.0,
    "interactive": -0.2,
    "never_seen": 0.6,
    "no_file": 1.5,
    "often_seen": -0.6,
    "owned_intact": -0.2,
    "seldom_seen": 0.3,
}
"""Of traits that the recordings cannot teach: too few have them, or (a baseline, a package database) none can."""
_PLACES = 3


def read_values(told: Told) -> dict[str, float]:
    """What may get a weight."""
    values = {name: value for name, value in told.traits.items() if not name.startswith(ARTEFACTS)}
    values.update((f"token:{token}", 1.0) for token in told.tokens if token.startswith(TOKENS))
    rank = next(rank for rank, level in enumerate(Level) if values.pop(f"level:{level.value}", None))
    values.update((f"{STEP}{step}", 1.0) for step in range(1, rank + 1))
    return values


def name_levels(weights: dict[str, float]) -> dict[str, float]:
    """Weights of steps between levels, never below zero, as weights of levels: a higher one never says less."""
    levels, others, total = {}, dict(weights), 0.0
    for rank, level in enumerate(Level):
        total += others.pop(f"{STEP}{rank}", 0.0)
        levels[f"level:{level.value}"] = total
    return others | levels


def hold(name: str) -> float:
    """The ridge of a weight."""
    return next((ridge for prefix, ridge in HELD.items() if name.startswith(prefix)), RIDGE)


def make_rows(populations: Sequence[Sequence[Case]]) -> list[Row]:
    """Examples of all alerts; each kind of each population counts SHARE, each of its scenarios the same."""
    rows = []
    for cases in populations:
        sides = [case for case in cases if case.scenario.label != "suspicious"]
        number = Counter(case.malicious for case in sides)
        rows += [
            Row(read_values(told), case.malicious, SHARE / number[case.malicious] / len(case.told))
            for case in sides
            for told in case.told
        ]
    return rows


def train(populations: Sequence[Sequence[Case]]) -> Fit:
    """Weights of names that enough families have."""
    families: dict[str, set[str]] = defaultdict(set)
    for cases in populations:
        for case in cases:
            for told in case.told:
                for name in read_values(told):
                    families[name].add(case.scenario.family)
    known = {name for name, found in families.items() if len(found) >= LEAST_FAMILIES}
    rows = [
        msgspec.structs.replace(row, values={name: value for name, value in row.values.items() if name in known})
        for row in make_rows(populations)
    ]
    return fit(rows, hold, may_lower)


def train_without(populations: Sequence[Sequence[Case]], family: str) -> Fit:
    """As `train`, with no scenario of that family."""
    return train([[case for case in cases if case.scenario.family != family] for cases in populations])


def score_case(fitted: Fit, case: Case) -> float:
    """Log-odds of a scenario: the highest of its alerts'."""
    return max(fitted.weigh(read_values(told)) for told in case.told)


def fit_by_family(populations: Sequence[Sequence[Case]]) -> dict[str, Fit]:
    """For each family the weights that were fitted without it."""
    families = sorted({case.scenario.family for cases in populations for case in cases})
    return {family: train_without(populations, family) for family in families}


def calibrate(cases: Sequence[Case], unseen: dict[str, Fit]) -> tuple[float, float]:
    """Slope and offset that make unseen scores probabilities, both kinds counted the same (Platt 1999)."""
    sides = [case for case in cases if case.scenario.label != "suspicious"]
    number = Counter(case.malicious for case in sides)
    rows = [
        Row({"score": score_case(unseen[case.scenario.family], case)}, case.malicious, SHARE / number[case.malicious])
        for case in sides
    ]
    fitted = fit(rows, lambda _: CALIBRATION_RIDGE, lambda _: False)
    return fitted.weights["score"], fitted.bias


def choose_benign_below(chances: Sequence[float]) -> float:
    """The highest threshold below which at most 1 - RECALL of these malicious scenarios fall."""
    return sorted(chances)[int((1 - RECALL) * len(chances))]


def fold_weights(fitted: Fit, slope: float, offset: float) -> Weights:
    """What was fitted, calibrated, as the scorer reads it, with the weights by hand. It calls nothing benign yet."""
    learnt = {name: round(slope * weight, _PLACES) for name, weight in name_levels(fitted.weights).items()}
    weights = dict(sorted((BY_HAND | learnt).items()))
    return Weights(
        version="dev-1",
        about="Written by make train-scorer from the recorded development set.",
        bias=round(slope * fitted.bias + offset, _PLACES),
        malicious_from=MALICIOUS_FROM,
        benign_below=0.0,
        traits={name: weight for name, weight in weights.items() if weight and not name.startswith("token:")},
        tokens={
            name.removeprefix("token:"): weight
            for name, weight in weights.items()
            if weight >= LEAST_TOKEN and name.startswith("token:")
        },
    )


def build_weights(populations: Sequence[Sequence[Case]], unseen: dict[str, Fit]) -> Weights:
    """The weights that ship. The first population is that of our own rules; thresholds are for it."""
    slope, offset = calibrate(populations[0], unseen)
    shipped = fold_weights(train(populations), slope, offset)
    below = min(
        choose_benign_below(chances) for chances in judge_attacks(populations[0], shipped, unseen, slope, offset)
    )
    return msgspec.structs.replace(shipped, benign_below=int(below * 100) / 100)


def judge_attacks(
    cases: Sequence[Case], shipped: Weights, unseen: dict[str, Fit], slope: float, offset: float
) -> Iterator[list[float]]:
    """Probabilities of the malicious scenarios: by the weights that will ship, by those that never saw the family."""
    attacks = [case for case in cases if case.malicious]
    scorer = Scorer(shipped)
    yield [max(scorer.score(told.alert, told.background).probability for told in case.told) for case in attacks]
    yield [chance(slope * score_case(unseen[case.scenario.family], case) + offset) for case in attacks]


def find_corpora() -> Path:
    """The folder of the data, by WATCHDOGD_CORPORA."""
    return Path(os.environ.get("WATCHDOGD_CORPORA", str(ROOT.parent / "shared" / "data")))


def find_sigma(corpora: Path) -> Path:
    """SigmaHQ's rules for Linux."""
    return corpora / "third_party" / "sigmahq" / "rules" / "linux"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write; 2 where the recordings are not there."""
    parser = argparse.ArgumentParser(prog="make train-scorer", description=__doc__)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    args = parser.parse_args(arguments)
    corpora = find_corpora()
    if not (corpora / "recorded" / "labels.jsonl").is_file() or not find_sigma(corpora).is_dir():
        sys.stderr.write(f"no labelled recordings in {corpora} (WATCHDOGD_CORPORA names their parent)\n")
        return 2
    recorded = corpora / "recorded"
    populations = [gather_single(ROOT / "rules", recorded), gather_single(find_sigma(corpora), recorded)]
    weights = build_weights(populations, fit_by_family(populations))
    text = json.dumps(msgspec.to_builtins(weights), indent=1)
    args.output.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(weights.traits)} traits, {len(weights.tokens)} tokens, {len(text)} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
