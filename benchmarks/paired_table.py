"""Systems of finished runs by any metric of held-out documents: means over seeds, paired differences.

    python benchmarks/paired_table.py runs/seeds/cells/seed=0 runs/seeds/cells/seed=1 --metrics=rouge_1,made_up

The work folders are runs of one configuration that differ by their seed. Prints a Markdown table for each metric: the
policy before training, the run itself and its baselines, each as mean over seeds ± standard error. Differences are
paired: of each document's mean over seeds, with 95 % bootstrap intervals. A system that a seed lacks is left out.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from ilf_jax.evaluation import statistics  # of this checkout
from ilf_jax.reporting import methods, tables, workfolder
from ilf_jax.reporting.workfolder import WorkFolder

_BEFORE = "before training"


def table(seeds: Sequence[WorkFolder], metric: str) -> str:
    """The Markdown table of one metric."""
    by_label = [tables.runs(work) for work in seeds]
    last = max(i.number for i in seeds[0].iterations)
    systems: dict[str, tuple[Sequence[WorkFolder], int]] = {_BEFORE: (seeds, 0)}
    systems |= {label: ([runs[label] for runs in by_label], last) for label in by_label[0]
                if all(label in runs for runs in by_label)}
    values: dict[str, Mapping[str, float]] = {
        label: methods.per_document(runs, metric, iteration=at) for label, (runs, at) in systems.items()}
    own = tables.own_label(seeds[0])
    lines = [f"| {metric} | mean | this minus {_BEFORE} | {own} minus this |", "|---|---|---|---|"]
    for label, (runs, at) in systems.items():
        if not values[label]:  # a seed has not got there, or documents have no values of their own
            continue
        means = [float(np.mean(list(methods.per_document([work], metric, iteration=at).values()))) for work in runs]
        mean = statistics.mean(metric, means)
        error = f" ± {mean.stderr:.3f}" if len(means) > 1 else ""
        lines.append(" | ".join([
            f"| {label}", f"{mean.value:.3f}{error}",
            "–" if label == _BEFORE else methods.with_interval(methods.difference(values[label], values[_BEFORE])),
            "–" if label == own else methods.with_interval(methods.difference(values[own], values[label]))]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workdirs", nargs="+", help="work folders, one for each seed")
    parser.add_argument("--metrics", required=True, help="names, separated by commas")
    flags = parser.parse_args()
    seeds = [workfolder.read(pathlib.Path(folder)) for folder in flags.workdirs]
    print("\n\n".join(table(seeds, metric) for metric in flags.metrics.split(",")))


if __name__ == "__main__":
    main()
