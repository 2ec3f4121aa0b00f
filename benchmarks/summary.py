"""Turns timed calls into numbers, and numbers into tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Result = dict[str, Any]

_COLUMNS = ("suite", "peer / ours, median (min to max)", "ours s", "peer s", "ours tok/s", "peer tok/s",
            "ours peak MB", "peer peak MB", "ours compile s", "ours first call s: cold, warm cache",
            "peer first call s", "first call, peer / ours with warm cache")

# The table warns if other processes take more than this share of all cores.
_MUCH_LOAD = 0.05


def paired_ratio(ours_s: Sequence[float], peer_s: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum of peer / ours over pairs of consecutive calls."""
    ratios = [peer / ours for ours, peer in zip(ours_s, peer_s, strict=True)]
    return {"ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def suite_result(
    ours: Sequence[Result], peer: Sequence[Result], first: Result, first_warm: Result, peer_first: Result
) -> Result:
    """One suite's entry in the JSON file.

    Args:
        ours, peer: results of the paired calls.
        first: our first call in a fresh process, with a cold compilation cache.
        first_warm: the same with a warm cache.
        peer_first: the peer's first call in a fresh process.

    Returns:
        The entry. If the calls have parts, `parts` has an entry of the same form for each.
    """
    sides = {"ours": ours, "peer": peer}
    result: Result = paired_ratio(*([call["seconds"] for call in calls] for calls in sides.values()))
    for name, calls in sides.items():
        seconds = statistics.median(call["seconds"] for call in calls)
        result[f"{name}_s"] = seconds
        result[f"{name}_all_s"] = [call["seconds"] for call in calls]
        result[f"{name}_peak_mb"] = max(call["peak_mb"] for call in calls)
        result[f"{name}_tokens_per_s"] = calls[0]["tokens"] / seconds
    our_call, peer_call = ours[0], peer[0]
    result |= {
        "tokens": our_call["tokens"], "prompt_tokens": our_call["prompt_tokens"],
        "same_tokens": all(our_call[key] == peer_call[key] for key in ("tokens", "prompt_tokens")),
        "largest_difference": largest_difference(our_call.get("check", []), peer_call.get("check", [])),
        "ours_compile_s": first["compile_seconds"], "ours_compilations": first["compilations"],
        "ours_first_s": first["seconds"], "ours_first_warm_s": first_warm["seconds"],
        "ours_first_warm_cache_hits": first_warm["cache_hits"],
        "peer_first_s": peer_first["seconds"], "first_ratio": peer_first["seconds"] / first_warm["seconds"],
        "ours_recompiled": sum(call["compilations"] for call in ours),
    }
    if "computed_tokens" in our_call:
        result["ours_computed_tokens"] = our_call["computed_tokens"]
    if "parts" in our_call:
        firsts = (first, first_warm, peer_first)
        result["parts"] = {name: suite_result(_part(name, ours), _part(name, peer), *_part(name, firsts))
                           for name in our_call["parts"]}
    return result


def _part(name: str, calls: Sequence[Result]) -> list[Result]:
    return [call["parts"][name] for call in calls]


def largest_difference(ours: Sequence[float], peer: Sequence[float]) -> float | None:
    """Largest difference between the results of both sides (scores, losses); None if they cannot be compared."""
    if not ours or len(ours) != len(peer):
        return None
    return max(abs(a - b) for a, b in zip(ours, peer, strict=True))


def roofline(measured: Result, peer_peaks: Result, finetune: Result | None) -> Result:
    """Peaks of the machine, the highest that either side reached, and the shares of them that each side gets.

    Args:
        measured: what the roofline worker measured.
        peer_peaks: what the peer's worker measured.
        finetune: the entry of the suite `finetune`, or of that part of an iteration, if it ran.
    """
    peak = max(measured["matmul_gflops"], *peer_peaks["matmul_gflops"].values())
    memory = max(measured["bandwidth_gbs"].values())
    result = {
        "peak_matmul_gflops": peak,
        "matmul_gflops": {"XLA": measured["matmul_gflops"], **peer_peaks["matmul_gflops"]},
        "peak_bandwidth_gbs": memory,
        "bandwidth_gbs": measured["bandwidth_gbs"],
        "ours_prefill_share": measured["prefill_gflops"] / peak,
        "ours_decode_bandwidth_share": measured["decode_gbs"] / memory,
    }
    for side in ("ours", "peer") if finetune else ():
        result[f"{side}_finetune_share"] = measured["finetune_gflop"] / finetune[f"{side}_s"] / peak
    return result


def markdown_row(suite: str, result: Mapping[str, Any]) -> str:
    """One line of the table."""
    r = result
    cells = (
        suite, f"**{r['ratio']:.2f}** ({r['min']:.2f} to {r['max']:.2f})", f"{r['ours_s']:.2f}", f"{r['peer_s']:.2f}",
        f"{r['ours_tokens_per_s']:,.0f}", f"{r['peer_tokens_per_s']:,.0f}", f"{r['ours_peak_mb']:,.0f}",
        f"{r['peer_peak_mb']:,.0f}", f"{r['ours_compile_s']:.1f}",
        f"{r['ours_first_s']:.1f}, {r['ours_first_warm_s']:.1f}", f"{r['peer_first_s']:.1f}", f"{r['first_ratio']:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def markdown(results: Mapping[str, Result], notes: Sequence[str]) -> str:
    """The table of all suites and their parts, with the notes below it."""
    head = [f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    rows = []
    for suite, result in results.items():
        rows.append(markdown_row(suite, result))
        rows += [markdown_row(f"{suite}: {name}", part) for name, part in result.get("parts", {}).items()]
    return "\n".join([*head, *rows, "", *(f"- {note}" for note in notes)]) + "\n"


def notes(results: Mapping[str, Result]) -> list[str]:
    """Notes for the table: settings of both sides, roofline shares, and warnings about numbers."""
    lines = []
    any_result = next(iter(results.values()))
    size, machine = any_result["size"], any_result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in any_result["versions"].items()
                         if version != "not installed")
    lines.append(f"{machine['cpu']}, {machine['cores']} cores, no accelerator; SmolLM2-135M in float32, "
                 f"{size['documents']} documents, N = {size['candidates']}, {size['pairs']} pairs after a warm-up, "
                 f"ours and the peer in turn. Versions: {versions}.")
    for suite, r in results.items():
        lines.append(f"{suite}: peer {_settings(r['peer_settings'])}; ours {_settings(r['ours_settings'])}.")
        if not r["same_tokens"]:
            lines.append(f"{suite}: THE TWO SIDES DID NOT HAVE THE SAME TOKENS, so their times cannot be compared.")
        if r["largest_difference"] is not None:
            lines.append(f"{suite}: the results of both sides differ by at most {r['largest_difference']:.1e}.")
        for key, when in (("others_load", "the timed calls"), ("others_load_in_tuning", "the peer's tuning")):
            if r[key] is not None and r[key] > _MUCH_LOAD:
                lines.append(f"{suite}: OTHER PROCESSES TOOK {100 * r[key]:.0f} % of all cores during {when}; measure "
                             "again on a quiet machine.")
        if r["ours_recompiled"]:
            lines.append(f"{suite}: ours compiled {r['ours_recompiled']} programs inside timed calls.")
    roof = any_result["roofline"]
    if roof:
        lines.append(
            f"Roofline: matmul peak {roof['peak_matmul_gflops']:.0f} GFLOP/s ("
            + ", ".join(f"{name} {rate:.0f}" for name, rate in roof["matmul_gflops"].items())
            + f"), memory {roof['peak_bandwidth_gbs']:.1f} GB/s. Of these ours reaches "
            + ", ".join(f"{100 * roof[key]:.0f} % {what}" for key, what in _SHARES.items() if key in roof) + "."
        )
    return lines


_SHARES = {"ours_prefill_share": "in prefill", "ours_finetune_share": "in finetuning",
           "ours_decode_bandwidth_share": "(of memory bandwidth) in decoding one row",
           "peer_finetune_share": "in the peer's finetuning"}


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in settings.items())
