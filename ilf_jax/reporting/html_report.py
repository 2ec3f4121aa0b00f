"""Builds report.html, one self-contained page, from the files of a work folder."""

import base64
import csv
import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from ilf_jax.reporting import (
    explanations,
    figures,
    first_screen,
    glossary,
    judgements,
    methods,
    plots,
    reviews,
    samples,
    tables,
    verdict,
    workfolder,
)
from ilf_jax.runtime import files

_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Script:
    """The script of a page, and how the page's policy names it: no other one may run there, whatever the data hold."""

    text: markupsafe.Markup
    source: str

    @classmethod
    def read(cls, *names: str) -> "Script":
        """The files of these names, one after another."""
        text = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return cls(markupsafe.Markup(text), f"'sha256-{digest}'")


def template(name: str) -> jinja2.Template:
    """One of our pages. Every text that it is given is escaped, unless it is markupsafe.Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True)
    return environment.get_template(name)


def render(work: workfolder.WorkFolder) -> str:
    """The page as HTML. Only the SVG of our own plots, our script and its JSON go in as they are."""
    said = verdict.read(work)
    drawn = [(plot, markupsafe.Markup(plot.svg)) for plot in plots.draw(work)]
    collected = samples.collect(work)
    browser = bool(collected["views"])
    stage_metrics = tables.stage_metrics(work)
    data = {**collected, "most": samples.MOST_SAMPLES, "csv": metrics_csv(work), "name": work.path.resolve().name}
    parts = {"results": bool(said.rows), "curves": bool(drawn), "samples": browser, "details": True, "run": True}
    return template("template.html").render(
        name=work.path.resolve().name,
        task=_task(work.config),
        iterations=_iterations(work.config),
        missing=work.missing,
        parts=[(part, "How it was run" if part == "run" else part.capitalize()) for part, is_there in parts.items()
               if is_there],
        verdict=said,
        about=first_screen.about(work),
        next_steps=first_screen.next_steps(work),
        meanings=_meanings(work, list(stage_metrics), said, drawn),
        headline=tables.headline_table(work, tables.with_interval),
        methods=methods.table([work]),
        methods_without=methods.not_shown([work]),
        last=methods.last_iteration(work),
        plots=drawn,
        reward=tables.reward_table(work),
        rank=judgements.rank_table(work),
        ranked=judgements.ranked_iteration(work),
        agreement=judgements.agreement_table(work),
        scorers=tables.scorer_table(work),
        stage_metrics=stage_metrics,
        rates=tables.rate_table(work),
        reviews=reviews.read(work),
        times=tables.time_table(work),
        total_times=tables.total_times(work),
        samples=collected,
        has_metrics=bool(work.metrics),
        starts=[_start(start) for start in work.starts],
        config=json.dumps(work.config, indent=2, ensure_ascii=False),
        changes=tables.changes_table(work),
        versions=tables.versions(work),
        data=markupsafe.Markup(samples.script_json(data).decode()),
        script=Script.read("wide_tables.js", "samples.js"),
    )


def _meanings(
    work: workfolder.WorkFolder, stages: list[str], said: verdict.Verdict,
    drawn: list[tuple[figures.Plot, markupsafe.Markup]],
) -> dict[str, list[tuple[str, str]]]:
    """What names mean, by the part of the page that shows them first."""
    known = glossary.Glossary(work)
    lead, base = tables.headline(work), tables.accuracy_metric(work)
    found = {"verdict": known.explain("evaluate", [lead] if said.rows and lead else [])}
    name, meaning = explanations.of_scorer(work)
    if meaning:
        found["verdict"].append((name, meaning))
    if any(plot.name == "scorers" for plot, _ in drawn):
        known.explain("score", [base] if base else [])  # in the figure's caption
    found["headline"] = known.explain("evaluate", work.names("evaluate"))
    found["scorers"] = known.explain("score", [base] if base else [])
    found["rates"] = [line for rate in tables.rates(work)
                      for line in known.explain(*_stage_and_metric(rate))]
    return found | {f"stage {stage}": known.explain(stage, work.names(stage)) for stage in stages}


def _stage_and_metric(rate: str) -> tuple[str, list[str]]:
    """Of a row of `tables.rates`."""
    stage, _, name = rate.partition(": ")
    return stage, [name.replace(" ", "_")]


def metrics_csv(work: workfolder.WorkFolder) -> str:
    """Every metric of the run and its baselines, a line each, for a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", *(field.name for field in dataclasses.fields(workfolder.Metric))])
    for label, run in tables.runs(work).items():
        for metric in run.metrics:
            writer.writerow([_no_formula(label), *map(_no_formula, dataclasses.astuple(metric))])
    return text.getvalue()


def _no_formula(cell: Any) -> Any:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def _task(config: dict[str, Any]) -> str:
    task = config.get("task", "")
    return str(task.get("name", "")) if isinstance(task, dict) else str(task)


def _iterations(config: dict[str, Any]) -> str:
    count = config.get("iterations")
    return f"{count} iteration{'' if count == 1 else 's'}" if isinstance(count, int) and count else ""


def _start(start: dict[str, Any]) -> dict[str, str]:
    """How the run was started, as texts."""
    hardware = start.get("hardware")
    hardware = hardware if isinstance(hardware, dict) else {}
    host = ", ".join(str(hardware[key]) for key in ("host", "system") if key in hardware)
    return {"command": str(start.get("command", "–")), "devices": str(hardware.get("devices", "–")),
            "host": host or "–", "commit": str(start.get("commit") or "not known: no git checkout"),
            "when": tables.minute(start.get("when"))}


def build_report(workdir: str | Path) -> Path:
    """Writes `workdir/report.html` from what the folder holds, finished or not, and returns its path.

    Raises:
        InputError: the folder is not a work folder, or a file in it is damaged.
    """
    path = Path(workdir) / "report.html"
    files.write_atomically(path, render(workfolder.read(workdir)), shared=True)  # a run may end meanwhile
    return path
