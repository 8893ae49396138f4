"""recipes: configurations of training that come with the package, to own and edit."""

from importlib.resources import files
from pathlib import Path

from pml_center.cli.options import Json
from pml_center.cli.output import show_entries, show_json
from pml_center.names import unknown_name


def ls(*, json_: Json = False) -> None:
    """List the recipes.

    Args:
        json_: print one JSON object.
    """
    titles = {name: text.partition("\n")[0].removeprefix("# ") for name, text in texts().items()}
    if json_:
        show_json("recipes ls", {"recipes": titles})
        return
    show_entries(titles)
    print("\nTo own and edit one: pml-center recipes cp digits-center")


def cp(name: str, to: Path | None = None, /, *, json_: Json = False) -> None:
    """Copy a recipe, to edit it and to train with `pml-center train --config`.

    Args:
        name: as `pml-center recipes ls` lists it.
        to: a file that does not exist, or a folder to copy it into; by default the current folder.
        json_: print one JSON object.
    """
    known = texts()
    if name not in known:
        raise ValueError(unknown_name("recipe", name, list(known), "List them with `pml-center recipes ls`."))
    path = to or Path()
    if path.is_dir():
        path /= f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(known[name])
    except FileExistsError:
        raise FileExistsError(f"to must be a file that does not exist, got {path}. Choose another name.") from None
    if json_:
        show_json("recipes cp", {"file": str(path)})
    else:
        print(f"recipe  {path}\ntrain   pml-center train --config {path}")


def texts() -> dict[str, str]:
    """The recipes, by name."""
    found = sorted(files("pml_center").joinpath("recipes").iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text("utf-8") for file in found if file.name.endswith(".yaml")}
