"""gates.toml is read strictly, and verdicts hold their error rates over many files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BadOption
from pipeline.results import gates, ratios
from pipeline.results.gates import CANNOT_TELL, FAIL, PASS, Check, Gates, Limits, Outcome
from pipeline.results.ratios import Ratio

LATENCY = Check("toy", "torch", "int8", "tflite", "local", gates.LATENCY, 1.05, CANNOT_TELL)
ACCURACY = replace(LATENCY, figure=gates.ACCURACY, limit=1.0)


def written(folder: Path, text: str) -> Path:
    path = folder / "gates.toml"
    path.write_text(text)
    return path


def test_the_defaults_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text()
    for key in gates.KEYS:
        value = getattr(Limits(), key)
        assert f"| `{key}` | {'not checked' if value is None else f'{value:g}'} |" in page, key


def test_a_file_overrides_defaults_and_a_table_overrides_the_file(tmp_path: Path) -> None:
    text = "latency_ratio = 1.1\nrounds = 20\nload_ratio = 2\n"
    text += '[cells."int8/tflite"]\nlatency_ratio = 1.02\nsize_ratio = false\n'
    found = gates.read(written(tmp_path, text))
    assert found.usual == Limits(
        latency_ratio=1.1, rounds=20, load_ratio=2.0, given=frozenset({"latency_ratio", "rounds", "load_ratio"})
    )
    assert found.of("fp32", "onnx") == found.usual
    own = found.of("int8", "tflite")
    assert (own.latency_ratio, own.size_ratio, own.rounds, own.load_ratio) == (1.02, None, 20, 2.0)
    assert own.given == {"latency_ratio", "rounds", "load_ratio", "size_ratio"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("latency = 1.1", "latency"),
        ("latency_ratio = '1.1'", "latency_ratio"),
        ("latency_ratio = 0", "latency_ratio"),
        ("latency_ratio = nan", "latency_ratio"),
        ("latency_ratio = inf", "latency_ratio"),
        ("latency_ratio = true", "latency_ratio"),
        ("drop_points = -1", "drop_points"),
        ("drop_points = 100", "drop_points"),
        ("rounds = 1", "rounds"),
        ("rounds = 5.0", "rounds"),
        ("rounds = false", "rounds"),
        ("given = []", "given"),
        ("cells = 3", "cells"),
        ("[cells.int8]\nrounds = 4", "int8"),
        ('[cells."int8/tflite"]\nsize = 4', "int8/tflite"),
        ("[cell]\nx = 1", "cell"),
        ("latency_ratio =", "gates.toml"),
    ],
)
def test_what_is_no_limit_is_refused_by_name(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=named):
        gates.read(written(tmp_path, text))


def test_a_missing_file_and_a_table_of_an_unknown_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"gates\.toml"):
        gates.read(tmp_path / "gates.toml")
    with pytest.raises(BadOption, match=r"int9/tflite.*int8/tflite"):
        Gates(cells={("int9", "tflite"): Limits()}).require_known(tmp_path, [("int8", "tflite")])


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Ratio(10, 0.0, 0.01, 0.01), PASS),
        (Ratio(10, math.log(1.05), 0.01, 0.01), CANNOT_TELL),
        (Ratio(10, 0.2, 0.01, 0.01), FAIL),
        (Ratio(10, 0.0, 0.5, 0.01), CANNOT_TELL),
        (Ratio(10, math.log(1.049), 0.0, 0.01), PASS),
        (Ratio(10, math.log(1.051), 0.0, 0.01), FAIL),
    ],
)
def test_a_ratio_is_judged_by_its_interval_and_the_limit(ratio: Ratio, verdict: str) -> None:
    (found,) = gates.judged([gates.of_ratio(LATENCY, ratio)], ratio.alpha)
    assert found.verdict == verdict
    assert (found.change, found.interval) == (pytest.approx(ratio.value), ratio.interval)
    assert verdict == CANNOT_TELL or found.needed is None


def test_a_gate_of_many_files_at_the_limit_fails_as_rarely_as_one_of_a_single_file() -> None:
    random = np.random.default_rng(11)
    alone = together = 0
    for _ in range(800):
        tests = []
        for _ in range(12):
            logs = random.normal(math.log(1.05), 0.02, 10)
            tests.append(gates.of_ratio(LATENCY, Ratio(10, float(logs.mean()), float(logs.std(ddof=1)), 0.05)))
        alone += any(gates.judged([test], 0.05)[0].verdict == FAIL for test in tests)
        together += any(check.verdict == FAIL for check in gates.judged(tests, 0.05))
    assert alone / 800 > 0.15
    assert together / 800 <= 0.05


def test_accuracy_passes_within_the_limit_and_fails_beyond_it() -> None:
    truth = np.zeros(2000, int)
    right = truth.copy()
    small, large = right.copy(), right.copy()
    small[:5], large[:100] = 1, 1
    verdicts = [gates.judged([gates.of_accuracy(ACCURACY, truth, right, top1)], 0.04)[0] for top1 in (small, large)]
    assert [check.verdict for check in verdicts] == [PASS, FAIL]
    assert [check.change for check in verdicts] == [pytest.approx(0.25), pytest.approx(5.0)]
    assert (verdicts[0].old, verdicts[0].new) == (1.0, pytest.approx(0.9975))
    assert "5 lost, 0 gained" in verdicts[0].reason
    few = gates.judged([gates.of_accuracy(ACCURACY, truth[:100], right[:100], right[:100])], 0.04)[0]
    assert few.verdict == CANNOT_TELL and few.needed is not None and 150 < few.needed < 500


def test_limits_below_the_resolution_are_refused_with_what_would_do() -> None:
    with pytest.raises(BadOption, match=r"drop_points 0\.5: 100 samples .* about [\d,]+ samples would do"):
        gates.require_samples("drop_points", 0.5, 100, "int8 on tflite")
    with pytest.raises(BadOption, match="no number of samples would do"):
        gates.require_samples("drop_points", 0.0, 10**6, "int8 on tflite")
    gates.require_samples("drop_points", 1.0, 10_000, "int8 on tflite")
    with pytest.raises(BadOption, match=r"latency_ratio 1\.001: 10 rounds .* rounds = \d+"):
        gates.require_rounds("latency_ratio", 1.001, Ratio(10, 0.0, 0.05, ratios.ALPHAS[0]), "int8 on tflite")
    gates.require_rounds("latency_ratio", 1.1, Ratio(10, 0.0, 0.05, ratios.ALPHAS[0]), "int8 on tflite")
    gates.require_rounds("latency_ratio", 0.9, Ratio(10, 0.0, 0.05, ratios.ALPHAS[0]), "int8 on tflite")


@pytest.mark.parametrize(
    ("verdicts", "expected", "code"),
    [([PASS, PASS], PASS, 0), ([PASS, CANNOT_TELL], CANNOT_TELL, 3), ([CANNOT_TELL, FAIL], FAIL, 1), ([], PASS, 0)],
)
def test_the_worst_check_is_the_verdict_of_the_gate(verdicts: list[str], expected: str, code: int) -> None:
    found = Outcome("a bundle", tuple(replace(LATENCY, verdict=verdict) for verdict in verdicts))
    assert (found.verdict, gates.EXIT[found.verdict]) == (expected, code)


def test_an_exact_figure_passes_at_the_limit() -> None:
    assert [gates.exact(LATENCY, change).verdict for change in (1.0, 1.05, 1.0501)] == [PASS, PASS, FAIL]
