"""Every gradient rule on ONNX's own backend node tests: the directional derivative test.

    python benchmarks/backend_node_tests.py [--operators Relu,Conv] [--case TEXT]

Each case of the installed onnx is a model of one operator, or of the operators that its definition
expands to, with inputs. Tested is the gradient of each float output with respect to each float
input (`directional.check`), in two forms: the other inputs are initializers, as in most models, or
all stay inputs, so that indices, sizes and weights are only known at run time.

A line for each operator that has a rule: its cases, those that passed (some gradient did, none
failed), those without a float, its gradients (output, input, form), and what became of them:
"moved" are those that passed beside the case's data, at which there is no derivative; "float64"
those whose own type loses too much. Below, why gradients were refused (a form that no rule covers:
the exporter says so), or excluded (can't be tested here).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from directional import FLOATS, Verdict, check
from onnx.backend.test.loader import load_model_tests

from exporters.vjp_rules import VJP_RULES
from xai_onnx.cli.output import progress, table
from xai_onnx.measure import environment

KINDS = ("passed", "moved", "float64", "refused", "excluded", "failed")
PASSED = KINDS[:3]
FORMS = ("constants", "at run time")


@dataclass(frozen=True)
class Gradient:
    """One gradient of a case, and what became of it."""

    operator: str
    case: str
    what: str
    verdict: Verdict


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operators", help="only these, with commas between them")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    arguments = parser.parse_args(argv)
    chosen = set((arguments.operators or "").split(",")) - {""}
    suite = [
        (operator, case)
        for operator, case in cases()
        if arguments.case in case.name and (not chosen or operator in chosen)
    ]
    found: list[Gradient] = []
    with progress(len(suite), "case") as bar:
        for operator, case in suite:
            found += gradients(operator, case)
            bar.update()
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print(f"onnx {onnx.__version__}: {len(suite)} cases\n")
    print("\n".join(report(Counter(operator for operator, _ in suite), found)))
    return 1 if any(item.verdict.kind == "failed" for item in found) else 0


def cases() -> Iterator[tuple[str, Any]]:
    """The suite's cases, each with the operator that it is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.random.seed(0)  # some cases are made of random numbers, anew each time
        suite = load_model_tests(kind="node")
    operator = ""
    for case in suite:  # a case comes before those of its expansions
        if "_expanded" not in case.name:
            operator = case.model.graph.node[-1].op_type
        yield operator, case


def gradients(operator: str, case: Any) -> Iterator[Gradient]:
    """Every gradient of a case."""
    proto, ((arrays, _),) = case.model, case.data_sets
    feed = {item.name: array for item, array in zip(proto.graph.input, arrays, strict=True)}
    if not all(isinstance(array, np.ndarray | np.generic) for array in feed.values()):
        return
    feed = {name: np.asarray(array) for name, array in feed.items()}
    sources = [name for name, array in feed.items() if array.dtype.name in FLOATS]
    targets = [item.name for item in proto.graph.output if _is_float(item)]
    for wrt in sources:
        for of in targets:
            for form in FORMS if len(feed) > 1 else FORMS[:1]:
                held = [] if form != "constants" else [name for name in feed if name != wrt]
                verdict = _checked(with_initializers(proto, feed, held), feed, held, wrt, of)
                yield Gradient(operator, case.name, f"{of} by {wrt}, {form}", verdict)


def _checked(
    proto: onnx.ModelProto, feed: dict[str, Any], held: list[str], wrt: str, of: str
) -> Verdict:
    try:
        return check(proto, {n: a for n, a in feed.items() if n not in held}, wrt, of)
    except Exception as error:  # a crash is a failure like any other, and the run goes on
        return Verdict("failed", f"{type(error).__name__}: {error}")


def with_initializers(
    proto: onnx.ModelProto, feed: dict[str, Any], names: Sequence[str]
) -> onnx.ModelProto:
    """The model with some of its inputs made initializers."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    kept = [item for item in proto.graph.input if item.name not in names]
    del result.graph.input[:]
    result.graph.input.extend(kept)
    result.graph.initializer.extend(onnx.numpy_helper.from_array(feed[n], n) for n in names)
    return result


def _is_float(item: onnx.ValueInfoProto) -> bool:
    kind = item.type.tensor_type.elem_type
    return bool(kind) and onnx.helper.tensor_dtype_to_np_dtype(kind).name in FLOATS


def report(counts: Counter[str], found: Sequence[Gradient]) -> Iterator[str]:
    """The table, and the reasons below it."""
    by_operator: dict[str, list[Gradient]] = defaultdict(list)
    for item in found:
        by_operator[item.operator].append(item)
    ruled = sorted(set(counts) & set(VJP_RULES))
    rows = [["operator", "cases", "passed", "without floats", "gradients", *KINDS]]
    rows += [_row(operator, counts[operator], by_operator[operator]) for operator in ruled]
    every = [item for operator in ruled for item in by_operator[operator]]
    rows.append(_row("all", sum(counts[operator] for operator in ruled), every))
    yield from table(rows)
    yield f"\nwithout cases: {', '.join(sorted(set(VJP_RULES) - set(counts))) or 'none'}"
    yield "\ncases with floats of which no gradient passed:"
    yield from _reasons(_untested(every), "")
    for kind in ("failed", "excluded", "refused", "float64"):
        yield f"\n{kind}:"
        yield from _reasons([item for item in every if item.verdict.kind == kind], kind)
    others = [item for item in found if item.operator not in VJP_RULES]
    yield "\noperators without a rule, whose cases hold floats:"
    yield from _reasons(others, "")


def _row(operator: str, count: int, items: Sequence[Gradient]) -> list[str]:
    kinds = Counter(item.verdict.kind for item in items)
    passed = len({item.case for item in items if item.verdict.kind in PASSED} - _failed(items))
    without = count - len({item.case for item in items})
    return [
        *(operator, str(count), str(passed), str(without), str(len(items))),
        *(str(kinds[kind] or "") for kind in KINDS),
    ]


def _failed(items: Sequence[Gradient]) -> set[str]:
    """The cases in which a gradient failed."""
    return {item.case for item in items if item.verdict.kind == "failed"}


def _untested(items: Sequence[Gradient]) -> list[Gradient]:
    """The first gradient of each case with floats in which none passed."""
    tested = {item.case for item in items if item.verdict.kind in PASSED}
    first: dict[str, Gradient] = {}
    for item in items:
        if item.case not in tested:
            first.setdefault(item.case, item)
    return list(first.values())


def _reasons(items: Sequence[Gradient], kind: str) -> Iterator[str]:
    if kind == "failed":
        yield from (f"  {item.case}, {item.what}: {item.verdict.why}" for item in items)
        return
    grouped: dict[tuple[str, str], list[Gradient]] = defaultdict(list)
    for item in items:
        grouped[item.operator, item.verdict.why or item.verdict.kind].append(item)
    for (operator, why), same in sorted(grouped.items()):
        yield f"  {operator}, {len(same)}: {why} ({same[0].case}, {same[0].what})"


if __name__ == "__main__":
    sys.exit(main())
