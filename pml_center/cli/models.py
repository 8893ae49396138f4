"""models: what there is to train and to measure."""

from fnmatch import fnmatch

from pml_center.cli.options import Flag, Json
from pml_center.cli.output import show_json, show_table
from pml_center.names import unknown_name


def models(pattern: str = "*", /, *, pretrained: Flag = False, json_: Json = False) -> None:
    """List the models that --model takes: timm's, and 'convnet' for small grey images.

    Args:
        pattern: of their names, such as 'resnet*' or '*384*'; a word without * is looked for anywhere in a name.
        pretrained: list the pretrained weights instead, by the names that load them.
        json_: print one JSON object.
    """
    from timm import list_models, list_pretrained
    from timm.models import get_pretrained_cfg

    wanted = pattern.lower() if set(pattern) & set("*?[") else f"*{pattern.lower()}*"
    names = list_pretrained() if pretrained else ["convnet", *list_models()]
    found = [name for name in names if fnmatch(name.lower(), wanted)]
    if not found:
        raise ValueError(unknown_name("model", pattern.strip("*"), names, "Try a shorter pattern, such as '*vit*'."))
    sizes = {name: "any" if name == "convnet" else _input(get_pretrained_cfg(name)) for name in found}
    if json_:
        show_json("models", {"pattern": pattern, "models": [{"name": name, "input": sizes[name]} for name in found]})
        return
    show_table(["model", "input"], [[name, sizes[name]] for name in found])
    print(f"{len(found):,} of {len(names):,} {'pretrained weights' if pretrained else 'models'}")


def _input(config) -> str:
    """What a model takes, such as 3×224×224; of some an older timm does not say it."""
    return "×".join(map(str, config.input_size)) if config else "unknown"
