"""Trains and measures: one run at a time for each job, a row of the table for each measurement."""

import csv
import json
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import data
import plan

COLUMNS = ["stage", "task", "arm", "rate", "seed", "figure", "percent"]

COMMON = "--optim adam --weight-decay 5e-4 --warmup-epochs 1 --augment.random-erasing 0 --width 0.25 --eval-every 0"
OMNIGLOT = "--height 64 --image-width 64 --augment.flip 0 --augment.pad 6 --crop squeeze --augment.interpolation bicubic"
OF_KIND = {
    "ids": f"{OMNIGLOT} --passes 4",
    "classes": f"{OMNIGLOT} --task classify --batch 16 --label-smoothing 0.1",
    "drawn": "--height 96 --image-width 48 --augment.pad 4 --passes 4",
}
EPOCHS = {"ids": 8, "classes": 20, "drawn": 8}
PRETRAIN_EPOCHS = 10
PRETRAIN_RATE = "2e-3"
# Exit codes of a program that a signal stopped: SIGHUP, SIGINT, SIGTERM.
STOPPED = {129, 130, 143}


class Table:
    """The measurements so far, in a CSV file that grows with each."""

    def __init__(self, path):
        self.path = Path(path)
        self.lock = threading.Lock()
        self.rows = {}
        if self.path.exists():
            with open(self.path, newline="") as file:
                text = file.read()
            # A line that a kill has cut off is dropped, and its run is made again.
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                self.path.write_text(whole)
            for row in csv.DictReader(whole.splitlines()):
                self.rows[self.key(**row)] = float(row["percent"])
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.append(COLUMNS)

    @staticmethod
    def key(stage, task, arm, rate, seed, **_):
        """Returns what a measurement is found by."""
        return stage, task, arm, rate, int(seed)

    def append(self, row):
        """Adds a line to the file."""
        with open(self.path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)

    def add(self, key, figure, percent):
        """Adds a measurement."""
        with self.lock:
            self.rows[key] = percent
            self.append([*key, figure, f"{percent:.4f}"])

    def get(self, *key):
        """Returns a measurement, or `None`."""
        return self.rows.get(key)


class Runs:
    """Where and how runs are made."""

    def __init__(self, options, table):
        self.options, self.table = options, table
        self.out, self.program = Path(options.out), options.program
        self.omniglot, self.data = Path(options.data).resolve(), (Path(options.out) / "data").resolve()

    def execute(self, wanted):
        """Makes the runs `(stage, task, arm, rate, seed)` of `wanted` that the table lacks, with the pre-trainings that they start from."""
        missing = [run for run in wanted if self.lacks(*run)]
        sources = {(self.pretraining(task), seed) for _, task, _, _, seed in missing if task.source}
        self.in_turn([(self.pretrain, *source) for source in sorted(sources)], "pre-trainings")
        self.in_turn([(self.fine_tune, *run) for run in missing], "fine-tunings")

    def in_turn(self, calls, what):
        """Makes calls, `jobs` at a time. After the first error, those that run are awaited and no other begins."""
        if not calls:
            return
        self.say(f"{len(calls)} {what}")
        failed, done = [], 0
        lock = threading.Lock()

        def one(call):
            nonlocal done
            if failed:
                return
            try:
                call[0](*call[1:])
            except BaseException as error:
                failed.append(error)
                return
            with lock:
                done += 1
                if done % 20 == 0:
                    self.say(f"{done} of {len(calls)} {what}")

        with ThreadPoolExecutor(self.options.jobs) as pool:
            try:
                list(pool.map(one, calls))
            except KeyboardInterrupt as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def say(self, text):
        """Reports progress."""
        print(text, flush=True)

    def names(self, arm):
        """Returns the names under which an arm is measured."""
        return [arm.name] + ([arm.name + plan.COLLECTED] if arm.collects else [])

    def lacks(self, stage, task, arm, rate, seed):
        """Returns whether a measurement of the run is missing."""
        return any(self.table.get(stage, task.name, name, rate, seed) is None for name in self.names(arm))

    @staticmethod
    def pretraining(task):
        """Returns the kind and the source of the weights that a task starts from."""
        return task.kind, task.source

    def folder_of(self, kind, domain):
        """Returns the folder of a domain's images."""
        return self.data / domain if kind == "drawn" else self.omniglot / domain

    def pretrain(self, pretraining, seed):
        """Trains a network on a source, unless that was done."""
        kind, source = pretraining
        folder = self.weights(kind, source, seed)
        if (folder / "summary.json").exists():
            return
        flags = OF_KIND[kind].split() + ["--arch", "resnet18", "--lr", PRETRAIN_RATE, "--seed", str(seed)]
        flags += ["--epochs", str(self.options.pretrain_epochs)]
        if kind == "classes":
            flags += ["--data", self.data / f"{source}-all.csv", "--val-share", "0.2"]
        else:
            flags += ["--data", self.folder_of(kind, source), "--ids", "4", "--images", "4"]
        self.train(folder, flags)

    def weights(self, kind, source, seed):
        """Returns the folder of a pre-training."""
        return self.out / "pretrained" / f"{kind}-{source}" / f"seed-{seed}"

    def fine_tune(self, stage, task, arm, rate, seed):
        """Trains an arm and writes what it measures to the table."""
        folder = self.out / stage / task.name / rate / f"seed-{seed}" / arm.name
        flags = OF_KIND[task.kind].split() + arm.flags.split() + ["--lr", rate, "--seed", str(seed)]
        flags += ["--epochs", str(self.options.epochs or EPOCHS[task.kind])]
        measured = self.measured(stage, task, seed)
        flags += measured
        if task.kind != "classes":
            flags += ["--ids", str(task.batch[0]), "--images", str(task.batch[1])]
        if task.source:
            flags += ["--init", self.weights(task.kind, task.source, seed)]
        self.train(folder, flags)
        values = {arm.name: json.loads((folder / "summary.json").read_text())[task.figure]}
        if arm.collects:
            report = folder / "collected.json"
            command = ["evaluate", "--checkpoint", folder, "--eval-state", "mean", "--out", report, *measured]
            self.call(command)
            figures = json.loads(report.read_text())["report" if task.kind == "classes" else "plain"]
            values[arm.name + plan.COLLECTED] = 100.0 * figures[task.figure]
        for name, value in values.items():
            key = (stage, task.name, name, rate, seed)
            if self.table.get(*key) is None:
                self.table.add(key, task.figure, value)
        shutil.rmtree(folder / "checkpoints")
        if stage != "confirmation":
            shutil.rmtree(folder)

    def measured(self, stage, task, seed):
        """Returns the flags that name the target's images and those that are measured: the test in the confirmation, else a validation
        split that the seed draws."""
        if task.kind == "classes":
            if stage == "confirmation":
                return ["--data", self.data / f"{task.target}-test.csv"]
            return ["--data", self.data / f"{task.target}-train.csv", "--val-share", "0.5", "--split", str(seed)]
        folder = self.folder_of(task.kind, task.target)
        if stage == "confirmation":
            return ["--data", folder]
        held_out = data.identities(folder) // 4
        return ["--data", folder, "--val-ids", str(held_out), "--split", str(seed)]

    def train(self, folder, flags):
        """Trains into `folder`. What an interrupted run left there is removed first."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.call(["train", "--out", folder, *COMMON.split(), *flags])

    def call(self, command):
        """Runs the program, and shows its messages if it fails."""
        command = [self.program, *command, "--threads", "1", "--device", self.options.device]
        # The same instructions on every processor, so that the same command gives the same numbers.
        environment = dict(os.environ, PTL_MAX_ISA="avx2")
        words = [str(part) for part in command]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        if done.returncode in STOPPED:
            raise KeyboardInterrupt
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
