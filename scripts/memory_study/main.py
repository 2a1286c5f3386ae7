"""Runs the stages of the study in turn, and writes the report after each."""

import argparse
import os
import re
import signal
import sys
from pathlib import Path

import data
import plan
from report import Results, markdown
from runs import PRETRAIN_EPOCHS, Runs, Table

STAGES = ["tuning", "selection", "description", "confirmation", "same-rate"]


def main():
    """Runs what the command line asks for; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = arguments()
    table = Table(options.table or Path(options.out) / "study.csv")
    Path(options.out).mkdir(parents=True, exist_ok=True)
    check_settings(options)
    runs = Runs(options, table)
    results = Results(table, seeds(options))
    data.prepare(options.program, runs.omniglot, runs.data, any(plan.TASKS[name].kind == "drawn" for name in options.tasks))
    try:
        for stage in STAGES:
            if stage in options.stage:
                run_stage(stage, options, runs, results)
    finally:
        write_report(options, results)
    return 0


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="memory-study", description="Runs the study of docs/study-protocol.md.")
    parser.add_argument("data", help="folder with source/ and target/ in Market-1501's layout")
    parser.add_argument("out", help="folder for data, weights and runs")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=STAGES, help="stages to run (default: all)")
    parser.add_argument("--table", help="CSV file of all measurements (default: OUT/study.csv)")
    parser.add_argument("--report", help="file whose text between <!-- memory:begin --> and <!-- memory:end --> becomes the report")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one compute thread each (default: 2)")
    parser.add_argument("--device", default="cpu", help="device of ptl-train (default: cpu)")
    parser.add_argument("--seeds", type=int, help="at most this many seeds in each stage, for a trial")
    parser.add_argument("--arms", nargs="+", choices=plan.ARMS, default=list(plan.ARMS), help="only these arms")
    parser.add_argument("--tasks", nargs="+", choices=plan.TASKS, default=list(plan.TASKS), help="only these tasks")
    parser.add_argument("--epochs", type=int, help="epochs of a fine-tuning, for a trial")
    parser.add_argument("--pretrain-epochs", type=int, default=PRETRAIN_EPOCHS, help="epochs of a pre-training, for a trial")
    options = parser.parse_args()
    root = Path(__file__).resolve().parent.parent.parent
    options.program = os.environ.get("PTL_TRAIN", str(root / "target/release/ptl-train"))
    return options


def seeds(options):
    """Returns the seeds of each stage that has its own."""
    return {stage: list(of_stage)[: options.seeds] for stage, of_stage in plan.SEEDS.items()}


def check_settings(options):
    """Refuses to continue a study with other epochs or images than it was begun with."""
    settings = f"epochs {options.epochs}\npretrain-epochs {options.pretrain_epochs}\ndevice {options.device}\n"
    for_runs = f"data {Path(options.data).resolve()}\n{settings}"
    check_file(Path(options.out) / "settings.txt", for_runs)
    # Rows of a table may come from several folders of runs, but not from runs with other settings.
    table = Path(options.table or Path(options.out) / "study.csv")
    check_file(table.with_suffix(".settings.txt"), settings)


def check_file(file, settings):
    """Writes settings to a file, and refuses others than those in it."""
    if file.exists() and file.read_text() != settings:
        sys.exit(f"memory-study: this study was begun with other settings, which {file} names: take those, or another OUT and --table")
    file.write_text(settings)


def run_stage(stage, options, runs, results):
    """Makes the runs of a stage, with the pre-trainings that they start from, seed by seed, so that a stopped study has every arm."""
    tasks = {
        "tuning": [plan.TASKS[name] for name in plan.TUNED_ON.values()],
        "description": plan.DESCRIBING,
        "same-rate": plan.DECIDING + plan.DESCRIBING,
    }.get(stage, plan.DECIDING)
    # These have the seeds and the validation of the selection.
    measured = "selection" if stage in ["description", "same-rate"] else stage
    names = list(plan.ARMS)
    if stage not in ["tuning", "selection"]:
        candidate = results.candidate()
        if candidate is None:
            sys.exit(f"memory-study: the {stage} needs a candidate: finish the stages before it, with all arms and tasks")
        beside = {"description": plan.DESCRIBED, "confirmation": plan.CONFIRMED, "same-rate": [plan.CONTROL]}[stage]
        names = beside if stage == "same-rate" else list(dict.fromkeys([*beside, plan.arm_of(candidate).name]))
    wanted = [(task, arm, rate) for task in tasks for arm in chosen(options, names, task) for rate in rates(stage, task, arm, results)]
    for seed in results.seeds[measured]:
        runs.execute([(measured, task, arm, rate, seed) for task, arm, rate in wanted])


def rates(stage, task, arm, results):
    """Returns the learning rates of an arm in a stage: all in the tuning, then the one that it chose, in the last stage that of the candidate."""
    if stage == "tuning":
        return plan.RATES
    rate = results.rate(task.kind, results.candidate() if stage == "same-rate" else arm.name)
    if rate is None:
        sys.exit(f"memory-study: {arm.name} has no learning rate for {task.name}: run the tuning first")
    return [rate]


def chosen(options, names, task):
    """Returns the arms of `names` that the command line keeps and that exist for `task`; none if the task is left out."""
    arms = [plan.ARMS[name] for name in names if name in options.arms]
    return [arm for arm in arms if arm.fits(task)] if task.name in options.tasks else []


def write_report(options, results):
    """Writes the report to OUT, and into the file that the command line names."""
    text = markdown(results)
    (Path(options.out) / "report.md").write_text(text)
    if options.report:
        file = Path(options.report)
        begin, end = "<!-- memory:begin -->", "<!-- memory:end -->"
        before = file.read_text()
        if begin not in before or end not in before:
            sys.exit(f"memory-study: {file} lacks {begin} and {end}")
        file.write_text(re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{text}{end}", before, flags=re.S))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("memory-study: stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    except (OSError, RuntimeError) as error:
        sys.exit(f"memory-study: {error}")
