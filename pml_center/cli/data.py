"""data check: everything that is wrong with a data set, in one pass."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pml_center.cli.options import DATA, Json
from pml_center.cli.output import show_json, show_table
from pml_center.training.config import check_at_least

if TYPE_CHECKING:
    from pml_center.data import DataCheck, SameImages

SHOWN = 10  # of each kind of problem; --json has them all
BARS, WIDTH = 8, 30  # of the histogram


def check(
    data: Annotated[str, Parameter(help=DATA)],
    /,
    *,
    data_root: str | None = None,
    fix_list: Path | None = None,
    workers: int = 2,
    json_: Json = False,
) -> None:
    """Find what is wrong with a data set, all of it in one pass.

    Images that cannot be read, folders without an image or inside a class, images in no class, names that are not in
    UTF-8, fewer than 2 classes, images that are there twice, in one split or in two, or with two labels. Images are the
    same if their pixels are, as 8-bit RGB. What was passed over is counted. Nothing is changed. The exit code is 0 for
    a data set without such problems and 2 for others.

    Args:
        data: in one of the forms of ``pml_center.cli.options.DATA``.
        data_root: where data sets by name lie, or are downloaded to; by default data in ~/.cache/pml-center.
        fix_list: write the paths to remove there, one a line: what cannot be read, folders without an image, all but
            one of the same images (that of test stays, or of val), and all of them where labels differ.
        workers: processes that read images; 0 reads in the main process.
        json_: print one JSON object.
    """
    from pml_center.data import check_data
    from pml_center.data.open_images import full_source

    check_at_least(0, "See --help.", workers=workers)
    source = full_source(data)  # so that the paths to remove lead there from anywhere
    found = check_data(source, data_root, workers)
    if fix_list is not None:
        fix_list.parent.mkdir(parents=True, exist_ok=True)
        paths = "".join(f"{name}\n" for name in found.to_remove)
        fix_list.write_text(paths, encoding="utf-8", errors="surrogateescape")  # so that it names any file as it is
    if json_:
        files = {"files": {"fix_list": str(fix_list)}} if fix_list else {}
        show_json("data check", {"data": source, **found.to_dict(), **files})
    else:
        _show(found, f"{source}/")
        if fix_list is not None:
            print(f"fix list  {fix_list}: {len(found.to_remove):,} paths to remove")
    if found.problems:
        raise SystemExit(2)


def _show(found: "DataCheck", prefix: str) -> None:
    """Print everything, with names that leave out where the data set lies."""
    from pml_center.data.image_folder import readable_name

    rows = []
    for split, sizes in found.class_sizes.items():
        counts = sorted(sizes.values()) or [0]
        singletons = len(found.singletons[split])
        numbers = (sum(counts), len(sizes), counts[0], median(counts), counts[-1], singletons)
        rows.append([split, *(f"{number:,.1f}".removesuffix(".0") for number in numbers)])
    show_table(["split", "images", "classes", "min", "median", "max", "singletons"], rows)
    totals: Counter[str] = sum(map(Counter, found.class_sizes.values()), Counter())
    if totals:
        print("images per class" + (", all splits together" if len(found.class_sizes) > 1 else ""))
    for line in _histogram(list(totals.values())):
        print(f"  {line}")
    if found.image_sizes:
        shown = (f"{width} × {height} ({count:,})" for (width, height), count in found.image_sizes.items())
        print(f"sizes  {_most(shown)}")
        print(f"modes  {_most(f'{mode} ({count:,})' for mode, count in found.modes.items())}")
    if found.passed_over:
        print(f"passed over  {_most(f'{kind} ({count:,})' for kind, count in found.passed_over.items())}")
    for title, lines in _problems(found).items():
        if lines:
            print(f"\n{title}: {len(lines):,}")
            for line in lines[:SHOWN]:
                print(f"  {readable_name(line.replace(prefix, ''))}")
            if len(lines) > SHOWN:
                print(f"  and {len(lines) - SHOWN:,} more, see --json")
    print(f"\nproblems: {found.problems or 'none'}")


def _problems(found: "DataCheck") -> dict[str, list[str]]:
    """A line for each thing that is wrong, by what is wrong with it."""
    labels = [same for same in found.same if same.two_labels]
    across = [same for same in found.same if same.across_splits and not same.two_labels]
    within = [same for same in found.same if not same.across_splits and not same.two_labels]
    return {
        "images that cannot be read": [f"{name}  {reason}" for name, reason in found.unreadable.items()],
        "paths of the table that lead nowhere": found.missing,
        "wrong lines of the table": found.wrong_lines,
        "folders without an image": found.empty_classes,
        "folders of images inside a folder of images (each is a class)": found.nested_classes,
        "images whose names are not in UTF-8 (rename them)": found.misnamed,
        "images in no class (move them to the folder of one, or check the folder above)": found.loose,
        "splits with fewer than 2 classes": found.too_few_classes,
        "images with several labels": [_copies(same, same.classes) for same in labels],
        "images in several splits": [_copies(same, same.splits) for same in across],
        "images that are there more than once": [" = ".join(same.names) for same in within],
    }


def _copies(same: "SameImages", wherein: Iterable[str]) -> str:
    return " = ".join(f"{name} ({each})" for name, each in zip(same.names, wherein, strict=True))


def _most(texts: Iterable[str]) -> str:
    """The first of the texts, and how many there are beyond."""
    every = list(texts)
    more = f" and {len(every) - 5:,} others" if len(every) > 5 else ""
    return ", ".join(every[:5]) + more


def _histogram(counts: list[int]) -> list[str]:
    """A line for each range of class sizes, with a bar as long as it has classes. Ranges double where sizes do.

    Example:
        >>> print("\\n".join(_histogram([1, 1, 1, 2])))
        1  ██████████████████████████████ 3 classes
        2  ██████████ 1 class
        >>> [line[:6].strip() for line in _histogram([1, 5, 9])]
        ['1', '2 to 3', '4 to 7', '8 to 9']
    """
    if not counts:
        return []
    low, high = min(counts), max(counts)
    if high >= BARS * low:
        starts = [2**k for k in range(low.bit_length() - 1, high.bit_length())]
    else:
        starts = list(range(low, high + 1, -(-(high - low + 1) // BARS)))
    ranges = list(zip(starts, [start - 1 for start in starts[1:]] + [high], strict=True))
    classes = [sum(start <= count <= end for count in counts) for start, end in ranges]
    names = [f"{start:,}" if start == end else f"{start:,} to {end:,}" for start, end in ranges]
    width = max(map(len, names))
    return [
        f"{name:>{width}}  {'█' * -(-WIDTH * number // max(classes))} {number:,} class{'es' * (number != 1)}"
        for name, number in zip(names, classes, strict=True)
    ]
