"""The report of a machine: its checks and measurements so far, as JSON and as Markdown."""

import json
import os
import tempfile
from datetime import datetime, timezone

import comparison

# How a check can end. What was cut off is run again when the report is continued.
PASSED, FAILED, SKIPPED, CUT_OFF = "passed", "failed", "skipped", "cut off"


class Report:
    """A report in a folder: NAME.json, NAME.md, and the output of each check in NAME/."""

    def __init__(self, folder, name, head):
        self.logs = folder / name
        self.json, self.markdown = folder / f"{name}.json", folder / f"{name}.md"
        self.data = {**head, "checks": []}

    @classmethod
    def read(cls, folder, name):
        """Returns an earlier report."""
        report = cls(folder, name, {})
        report.data = json.loads(report.json.read_text())
        return report

    @property
    def checks(self):
        return self.data["checks"]

    def has(self, phase, check):
        """Returns whether a check ended. Skipped ones may find now what was missing, so they did not."""
        ended = (PASSED, FAILED)
        return any(c["phase"] == phase and c["check"] == check and c["result"] in ended for c in self.checks)

    def note(self, phase, check, result, remark="", seconds=None):
        """Notes how a check ended, and writes the report."""
        self.put({"phase": phase, "check": check, "result": result, "remark": remark, "seconds": seconds})
        taken = "" if seconds is None else f"{seconds:.0f} s"
        print(f"{result:<8} {phase}: {check}" + "".join(f", {text}" for text in (taken, remark) if text), flush=True)

    def begin(self, phase, check):
        """Notes that a check runs. If nothing else is noted for it, the machine went away, or the script was killed."""
        self.put({"phase": phase, "check": check, "result": CUT_OFF, "remark": "it did not end", "seconds": None})

    def put(self, row):
        """Adds a row, or replaces that of the same check, and writes the report."""
        for i, old in enumerate(self.checks):
            if (old["phase"], old["check"]) == (row["phase"], row["check"]):
                self.checks[i] = row
                break
        else:
            self.checks.append(row)
        self.write()

    def bad(self, phases):
        """Returns the number of checks of some phases that failed or were cut off."""
        return sum(c["phase"] in phases and c["result"] in (FAILED, CUT_OFF) for c in self.checks)

    def outputs(self, pattern):
        """Returns the contents of the JSON files of checks by name; those that a killed check left incomplete are left out."""
        found = {}
        for path in sorted(self.logs.glob(pattern)):
            try:
                found[path.stem] = json.loads(path.read_text())
            except ValueError:
                continue
        return found

    def write(self):
        """Writes both files, each in one step."""
        benches = [machine for machines in self.outputs("bench-*.json").values() for machine in machines]
        torch = list(self.outputs("pytorch-*.json").values())
        demo = next(iter(self.outputs("demo/summary.json").values()), None)
        selftests = self.outputs("selftest-*.json")
        self.data["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.data.update(selftests=selftests, demo=demo, bench=benches, pytorch=torch)
        replace(self.json, json.dumps(self.data, indent=2) + "\n")
        replace(self.markdown, self.text(benches, torch))

    def text(self, benches, torch):
        """Returns the report as Markdown."""
        data = self.data
        lines = [f"# {data['gpu']}, {data['date'][:10]}", ""]
        if data["device"] != "cuda":
            lines += ["A rehearsal with the emulated GPU: the times in it mean nothing.", ""]
        quick = ", quick" if data["quick"] else ""
        lines += [f"Driver {data['driver']}, commit {data['commit']}, ptl-train with SHA-256 {data['program']}, seed {data['seed']}{quick}.", ""]
        lines += ["```", data["info"].rstrip(), "```", "", "| phase | check | result | s | |", "|---|---|---|---:|---|"]
        for c in self.checks:
            seconds = "" if c["seconds"] is None else f"{c['seconds']:.0f}"
            remark = c["remark"].replace("|", "\\|")
            lines.append(f"| {c['phase']} | {c['check']} | {c['result']} | {seconds} | {remark} |")
        if torch:
            lines += ["", "## Beside PyTorch", "", *comparison.lines(benches, torch)]
        demo = self.logs / "demo.txt"
        if data["demo"] and demo.exists():
            # Its last lines: head, rule, three arms.
            last = [line for line in demo.read_text(errors="replace").splitlines() if line.strip()][-5:]
            lines += ["", "## The demo", "", "```", *last, "```"]
        for path in (path for part in ("steps", "ops", "cells") for path in sorted(self.logs.glob(f"bench-{part}-*.txt"))):
            text = path.read_text(errors="replace")
            tables = text.find("\n== ")
            if tables >= 0:
                lines += ["", f"## {path.stem}", "", "```", text[tables:].strip(), "```"]
        return "\n".join(lines) + "\n"


def replace(path, text):
    """Writes a file in one step, so that a killed script leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)
