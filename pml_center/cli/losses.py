"""losses: what there is to train with."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from pml_center.cli.options import Json
from pml_center.cli.output import show_entries, show_json, show_text

if TYPE_CHECKING:
    from pml_center.training.loss_catalog import Argument, LossDescription


def losses(name: str | None = None, /, *, json_: Json = False) -> None:
    """List the losses that --loss takes, or tell all of one: its formula, its arguments, its paper.

    Args:
        name: of one loss, such as ArcFaceLoss, or pml.ArcFaceLoss where PML has the name too.
        json_: print one JSON object.
    """
    from pml_center.training.loss_catalog import describe_loss, list_losses

    if name is not None:
        loss = describe_loss(name)
        if json_:
            show_json("losses", {"loss": asdict(loss)})
        else:
            _show_loss(loss)
        return
    listed = list_losses()
    if json_:
        found = [
            {"name": each, "family": family, "summary": text}
            for family, members in listed.items()
            for each, text in members.items()
        ]
        show_json("losses", {"losses": found})
        return
    for family, members in listed.items():
        print(f"{family} ({len(members)})")
        show_entries({f"  {each}": text for each, text in members.items()})
        print()
    print("All of one, with its formula and arguments: pml-center losses ArcFaceLoss")


def _show_loss(loss: "LossDescription") -> None:
    print(f"{loss.name}  ({loss.family})\n")
    show_text("\n\n".join(part for part in (loss.summary, loss.text) if part))
    print("arguments")
    show_entries({f"  {each.name}{_default(each)}": each.meaning for each in loss.arguments})
    print()
    entries = {"parameters": _parameters(loss), "state": loss.state, "miners": _miners(loss), "source": loss.source}
    show_entries({name: text for name, text in entries.items() if text})


def _default(argument: "Argument") -> str:
    return " (required)" if argument.default is None else f" = {argument.default}"


def _parameters(loss: "LossDescription") -> str:
    if loss.parameters is None:
        needed = [argument.name for argument in loss.arguments if argument.default is None]
        return f"not looked at: it cannot be built without {', '.join(needed)}"
    shapes = [f"{name} ({', '.join(shape)})" for name, shape in loss.parameters.items()]
    return f"{', '.join(shapes)}; they train with --loss-lr" if shapes else "none"


def _miners(loss: "LossDescription") -> str:
    if loss.miners is None:
        return ""
    return "takes what a miner finds: 'LOSS @ MINER'" if loss.miners else "takes none"
