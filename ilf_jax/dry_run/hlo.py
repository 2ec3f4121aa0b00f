"""Reads what XLA made of a program: which collectives it runs, how often, on how many bytes."""

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
_UNKNOWN = -1  # trips of a loop
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def collectives(text: str, loops: int = 1) -> dict[str, tuple[int, int]]:
    """Kind -> (how many run, bytes of their results on one device), of a compiled program as text.

    Args:
        loops: how often the body of a loop runs of which XLA does not know; one within such a loop counts once.
    """
    operations: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    calls: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    at, entry = "", ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            at = head.group(2)
            entry = at if head.group(1) else entry
            continue
        found = _OPERATION.match(line)
        if not found:
            continue
        result, name = found.groups()
        kind = name.removesuffix("-start")
        if kind in _KINDS:
            sizes = [_size(*shape) for shape in _SHAPE.findall(result)]
            # What starts one also holds its inputs; the result is the larger of the two where it gathers.
            operations[at].append((kind, max(sizes) if name.endswith("-start") and kind != "all-reduce"
                                   else sum(sizes)))
        if name == "while":
            trips = _TRIPS.search(line)
            calls[at].append((_BODY.search(line).group(1), int(trips.group(1)) if trips else _UNKNOWN))
        for names in _CALLED.findall(line):
            calls[at] += [(called.strip().lstrip("%"), 1) for called in names.split(", ")]
    return _totals(entry, operations, calls, loops)


def _size(kind: str, dimensions: str) -> int:
    size = _BYTES.get(kind, 0)
    for n in filter(None, dimensions.split(",")):
        size *= int(n)
    return size


def _totals(
    entry: str, operations: dict[str, list[tuple[str, int]]], calls: dict[str, list[tuple[str, int]]], loops: int
) -> dict[str, tuple[int, int]]:
    known: dict[tuple[str, bool], collections.Counter] = {}

    def of(name: str, within: bool) -> collections.Counter:
        if (name, within) not in known:
            known[name, within] = total = collections.Counter()
            for kind, size in operations.get(name, ()):
                total[kind, "count"] += 1
                total[kind, "bytes"] += size
            for called, times in calls.get(name, ()):
                inner = of(called, within or times == _UNKNOWN)
                for key, value in inner.items():
                    total[key] += (1 if within else loops) * value if times == _UNKNOWN else times * value
        return known[name, within]

    found = of(entry, False)
    return {kind: (found[kind, "count"], found[kind, "bytes"]) for kind in _KINDS if found[kind, "count"]}
