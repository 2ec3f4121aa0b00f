"""Reads a compiled XLA program: which collectives it runs, how often, and on how many bytes."""

import collections
import re

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4,
          "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][\w\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|called_computations|branch_computations|true_computation|"
                     r"false_computation)=\{?((?:%?[\w.\-]+(?:, )?)+)\}?")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_UNKNOWN = -1  # trip count
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"^\s+%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_CARRIED = re.compile(r"^\s+%?([\w.\-]+) = s32\[\]\S* get-tuple-element\(")
_LESS = re.compile(r"^\s+ROOT .* compare\((?:\S+ )?%?([\w.\-]+), (?:\S+ )?%?([\w.\-]+)\), direction=LT")


def collectives(text: str, loops: int = 1) -> dict[str, tuple[int, int]]:
    """Kind -> (number of executions, bytes of their results on one device).

    Args:
        text: the compiled program as HLO text.
        loops: assumed trip count of loops whose count XLA does not know. A loop nested in such a loop counts once.
    """
    operations: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    calls: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    computation, entry, limits = "", "", _limits(text)
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            computation = head.group(2)
            entry = computation if head.group(1) else entry
            continue
        operation = _OPERATION.match(line)
        if not operation:
            continue
        result, name = operation.groups()
        kind = name.removesuffix("-start")
        if kind in _KINDS:
            sizes = [_size(*shape) for shape in _SHAPE.findall(result)]
            # The shape of a "-start" operation lists its inputs too, except for all-reduce. The result is the
            # largest of them in an all-gather.
            has_inputs = name.endswith("-start") and kind != "all-reduce"
            operations[computation].append((kind, max(sizes) if has_inputs else sum(sizes)))
        if name == "while":
            trips, body, condition = _TRIPS.search(line), _BODY.search(line), _CONDITION.search(line)
            assert body is not None and condition is not None, "a while loop names its body and its condition"
            known = int(trips.group(1)) if trips else limits.get(condition.group(1), _UNKNOWN)
            calls[computation].append((body.group(1), known))
        for names in _CALLED.findall(line):
            calls[computation] += [(called.strip().lstrip("%"), 1) for called in names.split(", ")]
    return _totals(entry, operations, calls, loops)


def _limits(text: str) -> dict[str, int]:
    """Of conditions that compare what a loop carries with a constant: the constant, by the condition's name.

    jax's scans count from 0 to it. XLA notes their trip counts, but those of TPU programs are gone at the end.
    """
    constants: dict[str, int] = {}
    carried: set[str] = set()
    limits, computation = {}, ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            computation = head.group(2)
        elif constant := _CONSTANT.match(line):
            constants[constant.group(1)] = int(constant.group(2))
        elif value := _CARRIED.match(line):
            carried.add(value.group(1))
        elif less := _LESS.match(line):
            counter, limit = less.groups()
            if counter in carried and limit in constants:
                limits[computation] = constants[limit]
    return limits


def _size(kind: str, dimensions: str) -> int:
    size = _BYTES.get(kind, 0)
    for n in filter(None, dimensions.split(",")):
        size *= int(n)
    return size


def _totals(
    entry: str, operations: dict[str, list[tuple[str, int]]], calls: dict[str, list[tuple[str, int]]], loops: int
) -> dict[str, tuple[int, int]]:
    totals: dict[tuple[str, bool], collections.Counter] = {}

    def count(name: str, in_unknown_loop: bool) -> collections.Counter:
        if (name, in_unknown_loop) not in totals:
            total: collections.Counter = collections.Counter()
            totals[name, in_unknown_loop] = total
            for kind, size in operations.get(name, ()):
                total[kind, "count"] += 1
                total[kind, "bytes"] += size
            for called, times in calls.get(name, ()):
                trips = times if times != _UNKNOWN else 1 if in_unknown_loop else loops
                for key, value in count(called, in_unknown_loop or times == _UNKNOWN).items():
                    total[key] += trips * value
        return totals[name, in_unknown_loop]

    total = count(entry, False)
    return {kind: (total[kind, "count"], total[kind, "bytes"]) for kind in _KINDS if total[kind, "count"]}
