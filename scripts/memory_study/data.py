"""Makes the data of the tasks: lists of Omniglot's images with classes, and drawn pedestrians."""

import csv
import re
import shutil
import subprocess
from pathlib import Path

IMAGES = {".png", ".jpg"}
SUBSETS = ["bounding_box_train", "query", "bounding_box_test"]
# Identities (half of them for the test) and cameras of a drawn domain. The strengths of the gaps were chosen with other seeds.
DRAWN = ["--ids", "120", "--cams", "6", "--seed", "7"]
GAPS = ["light", "viewpoint", "occlusion"]


def prepare(program, omniglot, folder, drawn):
    """Makes what is missing in `folder`; the pedestrians only if `drawn`."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain in ["source", "target"]:
        write_lists(omniglot / domain, folder, domain)
    if not drawn:
        return
    draw(program, folder / "drawn-source", ["--domain", "source"])
    for gap in GAPS:
        draw(program, folder / gap, ["--domain", "target", "--gap", gap])


def draw(program, folder, flags):
    """Draws a domain, unless all of it is there."""
    if not all((folder / subset).is_dir() for subset in SUBSETS):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([program, "synth", "--out", folder, *DRAWN, *flags], check=True, stderr=subprocess.DEVNULL)


def write_lists(domain, folder, name):
    """Writes three lists of the images of `domain`, in which a character is a class: `NAME-all.csv`; `NAME-train.csv` with those by the
    drawers with odd numbers; `NAME-test.csv`, which says that these are for training and the others are the test."""
    images = sorted(path for subset in SUBSETS for path in (domain / subset).iterdir() if path.suffix in IMAGES)
    rows = []
    for path in images:
        character, drawer = re.match(r"(\d+)_c(\d+)", path.name).groups()
        rows.append((path.resolve(), character, "train" if int(drawer) % 2 else "val"))
    write(folder / f"{name}-all.csv", ["path", "label"], [row[:2] for row in rows])
    write(folder / f"{name}-train.csv", ["path", "label"], [row[:2] for row in rows if row[2] == "train"])
    write(folder / f"{name}-test.csv", ["path", "label", "split"], rows)


def write(path, header, rows):
    """Writes a CSV file."""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def identities(folder):
    """Counts the training identities of a data set in Market-1501's layout."""
    return len({path.name.split("_")[0] for path in (Path(folder) / SUBSETS[0]).iterdir() if path.suffix in IMAGES})
