"""Builds report.html, one self-contained page, from the files of a work folder."""

import json
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from ilf_jax.reporting import judgements, methods, plots, reviews, samples, tables, workfolder
from ilf_jax.runtime import files


def _lead(work: workfolder.WorkFolder) -> dict[str, Any] | None:
    """The leading metric before and after, for the top of the page."""
    name = tables.headline(work)
    if name is None:
        return None
    values = tables.series(work, "evaluate", name)
    others = {label: tables.series(run, stage, name) for label, (run, stage) in tables.systems(work).items()}
    return {
        "name": tables.spoken(name),
        "direction": tables.direction(work, name),
        "first": tables.with_error(values[0]),
        "first_iteration": values[0].iteration,
        "last": tables.with_error(values[-1]) if len(values) > 1 else None,
        "last_iteration": values[-1].iteration,
        "n": values[-1].n,
        "baselines": {label: tables.with_error(o[-1]) for label, o in others.items() if label != tables.ILF and o},
    }


def _task(config: dict[str, Any]) -> str:
    task = config.get("task", "")
    return str(task.get("name", "")) if isinstance(task, dict) else str(task)


def template(name: str) -> jinja2.Template:
    """One of our pages. Every text that it is given is escaped, unless it is markupsafe.Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    return environment.get_template(name)


def render(work: workfolder.WorkFolder) -> str:
    """The page as HTML. Only the SVG of our own plots goes in as it is."""
    iteration, training = samples.training_samples(work)
    return template("template.html").render(
        name=work.path.resolve().name,
        task=_task(work.config),
        missing=work.missing,
        baselines=[tables.TARGET_LABELS.get(name, name) for name in work.baselines],
        lead=_lead(work),
        headline=tables.headline_table(work),
        methods=methods.table([work]),
        plots=[(plot, markupsafe.Markup(plot.svg)) for plot in plots.draw(work)],
        rank=judgements.rank_table(work),
        agreement=judgements.agreement_table(work),
        scorers=tables.scorer_table(work),
        stage_metrics=tables.stage_metrics(work),
        rates=tables.rate_table(work),
        reviews=reviews.read(work),
        times=tables.time_table(work),
        training_iteration=iteration,
        training=training,
        heldout=samples.heldout_samples(work),
        shown_candidates=samples.SHOWN_CANDIDATES,
        config=json.dumps(work.config, indent=2, ensure_ascii=False),
        changes=tables.changes_table(work),
        versions=tables.versions(work),
    )


def build_report(workdir: str | Path) -> Path:
    """Writes `workdir/report.html` from what the folder holds, finished or not, and returns its path.

    Raises:
        InputError: the folder is not a work folder, or a file in it is damaged.
    """
    path = Path(workdir) / "report.html"
    files.write_atomically(path, render(workfolder.read(workdir)), shared=True)  # a run may end meanwhile
    return path
