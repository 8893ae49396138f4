"""The page of what was measured, which says whatever the terminal says."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pml_center.evaluation import Report
    from pml_center.training import Run


def write_page(
    path: Path,
    reports: Mapping[str, "Report"],
    run: "Run | None",
    beside: "Mapping[str, Report] | None" = None,
    notes: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
    name: str = "",
    **material: Any,
) -> Path:
    """Write the page of reports, with how the run was trained that they are of, if they are of one.

    Args:
        path: to write.
        reports: by protocol.
        run: the run, None for other models.
        beside: retrieval by what needs no training, by the names of their files.
        notes: sentences below the heading, beside the one on the epoch that was chosen.
        facts: what was measured, where it is not what the run held out.
        name: of the model, or of embeddings, without a run.
        material: arguments of :func:`~pml_center.evaluation.write_html`.
    """
    from pml_center.cli.sources import pictures
    from pml_center.evaluation import write_html
    from pml_center.pages.parts import history
    from pml_center.training.measurement import gained, unbeaten
    from pml_center.training.run_folder import environment

    retrieval = reports.get("retrieval")
    first, settings = [], []
    details: dict[str, Mapping[str, Any]] = {} if facts is None else {"Measurement": facts}
    if run is not None:
        details["Configuration"] = asdict(run.config)
        settings = [f"Run {run.folder.name}: {run.config.command}", *chosen_epoch(run)]
        if beside and retrieval:
            first = [*unbeaten(retrieval, beside, run.config), *gained(retrieval, beside, run.config.metric)]
    # The page of a run says the same whoever writes it.
    made = environment() if run is None or facts is not None else run.environment
    for kind in ("images", "reference_images"):
        images: Any = material.get(kind)
        if getattr(images, "width", None) is not None:
            material[kind] = pictures([images.name(i) for i in range(len(images))])
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_html(
        path,
        {_heading(protocol) if len(reports) > 1 else "": report for protocol, report in reports.items()},
        **(beside or {}),
        title=_title(run, name, facts or {}),
        first=first,
        notes=[*settings, *notes],
        details=details | {"Environment": made},
        extra=[] if run is None else history(run.epochs, run.events("val")),
        **material,
    )


def chosen_epoch(run: "Run") -> list[str]:
    """Which epoch the validation images chose, if there are any."""
    chosen = run.best_epoch
    if chosen is None:
        return []
    return [f"best epoch {chosen} of {len(run.epochs)} by {run.config.metric} on the validation images"]


def _title(run: "Run | None", name: str, facts: Mapping[str, Any]) -> str:
    """The model, with its loss where that is known, and the data."""
    from pml_center.data.data_folder import cache_folder
    from pml_center.data.open_images import is_name

    def called(data: str) -> str:
        if Path(data).parent == cache_folder() / "features":  # arrays, which have no other name
            return "features"
        return data if is_name(data) else Path(data).name

    if run is None:
        return f"{name}, on {called(facts['data'])}" if "data" in facts else name
    is_held_out = facts.get("data", "held out") == "held out"
    where = f"held-out {called(run.config.data)}" if is_held_out else called(facts["data"])
    return f"{run.config.model} with {run.config.loss}, on {where}"


def _heading(protocol: str) -> str:
    return protocol.replace("fewshot", "few-shot").replace("openset", "open set").capitalize()
