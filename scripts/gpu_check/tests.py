"""Tests of `scripts/gpu-check` with programs that stand for ptl-train, the bench, nvidia-smi and PyTorch. Takes seconds."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
SCRIPT = HERE.parent / "gpu-check"

import comparison  # noqa: E402

# Each call adds a line to calls.txt; a file with the name of a call says how it goes wrong.
PROGRAM = """#!/usr/bin/env python3
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1]
call = arguments[0] if arguments else "?"
if call == "selftest":
    call = f"selftest-{value('--precision')}-{value('--vendor')}"
with open(here / "calls.txt", "a") as calls:
    calls.write(call + "\\n")
wrong = (here / call).read_text() if (here / call).exists() else ""
if call.startswith("selftest"):
    by = "ptl's own kernels (no library)" if wrong.startswith("missing") else "a library"
    print(f"a GPU, convolutions by {by}, seed {value('--seed')}", flush=True)
if wrong == "hang":
    (here / "pid").write_text(str(os.getpid()))
    time.sleep(60)
if wrong == "refused":
    print("cuDNN does not compute the output (no algorithm): ptl's own kernel does")
if wrong == "ended":
    os.kill(os.getpid(), 15)
if wrong.endswith("fails"):
    sys.exit("error: the numbers differ")
if wrong == "fail":
    sys.exit("error: the numbers differ\\nnote: this is advice")
if call == "demo":
    folder = pathlib.Path(value("--out"))
    (folder / "checkpoints").mkdir(parents=True)
    arms = dict(zip(("zero_shot", "plain", "ptl"), (6, 10, 60) if wrong == "weak" else (6, 60, 60)))
    (folder / "summary.json").write_text(json.dumps({arm: {"mAP": mAP} for arm, mAP in arms.items()}))
if call == "synth":
    pathlib.Path(value("--out")).mkdir()
if call == "train" and os.environ["RANK"] == "0":
    folder, loss = pathlib.Path(value("--out")), 2.0
    (folder / "checkpoints").mkdir(parents=True)
    loss += 0.001 if wrong == "differs" and os.environ["WORLD_SIZE"] == "2" else 0
    rows = [{"type": "run"}] + [{"type": "step", "loss": loss}] * 20
    (folder / "metrics.jsonl").write_text("\\n".join(map(json.dumps, rows)))
if call == "train" and wrong == "second" and os.environ["RANK"] == "1":
    sys.exit("error: process 1 of 2: the GPU is gone")
if call == "train" and wrong == "second" and os.environ["WORLD_SIZE"] == "2":
    (here / "pid").write_text(str(os.getpid()))
    time.sleep(60)
if "--json" in arguments:
    pathlib.Path(value("--json")).write_text(json.dumps({"failed": 0}))
"""
BENCH = """#!/usr/bin/env python3
import json, os, pathlib, sys
row = {"what": "mgn-ptl", "batch": 16, "pass": "step", "convolutions": "own", "seconds": 0.5}
machine = {"precision": os.environ["PTL_BENCH_PRECISION"], "copy_bytes_per_second": 1e9, "product_flops_per_second": 1e12, "rows": [row]}
pathlib.Path(os.environ["PTL_BENCH_JSON"]).write_text(json.dumps([machine]))
print("Testing\\n\\n== a GPU\\n\\na table of", os.environ["PTL_BENCH_PARTS"], os.environ["PTL_BENCH_DEVICE"], *sys.argv[1:])
"""
NVIDIA_SMI = """#!/bin/sh
echo "A GPU, with a comma, 580.1"
"""
TWO_GPUS = NVIDIA_SMI * 2


class GpuCheck(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        self.program, self.bench = self.write("ptl-train", PROGRAM), self.write("kernels", BENCH)

    def write(self, name, text):
        path = self.bin / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def goes(self, call, how):
        (self.bin / call).write_text(how)

    def calls(self):
        """Returns the calls of the program since the last time, without those that ask for its version."""
        path = self.bin / "calls.txt"
        calls = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return [call for call in calls if call != "info"]

    def command(self, *arguments, device="emulated"):
        return [SCRIPT, "--device", device, "--seed", "7", "--out", self.folder, "--report", "r", *arguments]

    def environment(self, **more):
        path = f"{self.bin}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PTL_BIN": str(self.program), "PTL_BENCH": str(self.bench), **more}

    def run_script(self, *arguments, device="emulated", **more):
        command = self.command(*arguments, device=device)
        return subprocess.run(command, capture_output=True, text=True, env=self.environment(**more))

    def checks(self):
        """Returns the results of all checks by phase and check."""
        report = json.loads((self.folder / "r.json").read_text())
        return {(c["phase"], c["check"]): c["result"] for c in report["checks"]}

    def remark(self, phase, check):
        report = json.loads((self.folder / "r.json").read_text())
        return next(c["remark"] for c in report["checks"] if (c["phase"], c["check"]) == (phase, check))

    def test_a_rehearsal_runs_everything_but_sanitizers(self):
        done = self.run_script("selftest", "selftest-vendor", "train", "steps", "cells", "racecheck")
        self.assertEqual(done.returncode, 0, done.stderr)
        tests = [f"selftest-{p}-{vendor}" for vendor in ("never", "always") for p in ("bf16", "tf32", "f32")]
        self.assertEqual(self.calls(), [*tests, "demo"])
        results = list(self.checks().values())
        self.assertEqual((results.count("passed"), results.count("skipped")), (6 + 1 + 6 + 3, 1 + 3))
        text = (self.folder / "r.md").read_text()
        for words in ("times in it mean nothing", "a table of steps emulated --bench --test", "a table of ops,convs", "a table of cells"):
            self.assertIn(words, text)
        report = json.loads((self.folder / "r.json").read_text())
        self.assertEqual(len(report["selftests"]), 6)
        self.assertEqual(len(report["bench"]), 9)
        self.assertFalse((self.folder / "r" / "demo" / "checkpoints").exists())

    def test_a_failure_ends_with_1_and_says_why(self):
        self.goes("selftest-tf32-never", "fail")
        done = self.run_script("selftest")
        self.assertEqual(done.returncode, 1)
        self.assertIn("1 of the checks failed", done.stderr)
        self.assertEqual(self.checks()["selftest", "own kernels in tf32"], "failed")
        self.assertEqual(self.remark("selftest", "own kernels in tf32"), "error: the numbers differ")
        self.assertEqual(self.run_script("train").returncode, 0, "the named phases count")
        self.calls()
        self.assertEqual(self.run_script("selftest").returncode, 1, "a failure stays one")
        self.assertEqual(self.calls(), [])

    def test_a_phase_stops_itself_and_is_continued(self):
        self.goes("selftest-tf32-never", "hang")
        start = time.monotonic()
        done = self.run_script("selftest", "train", "--minutes", "0.03")
        self.assertLess(time.monotonic() - start, 20)
        self.assertEqual(done.returncode, 1)
        results = self.checks()
        kinds = [results["selftest", f"own kernels in {p}"] for p in ("bf16", "tf32", "f32")]
        self.assertEqual(kinds, ["passed", "cut off", "cut off"])
        self.assertEqual(results["train", "the demo runs"], "passed")
        self.assert_gone()
        (self.bin / "selftest-tf32-never").unlink()
        self.calls()
        done = self.run_script("selftest", "train")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.calls(), ["selftest-tf32-never", "selftest-f32-never"])

    def test_a_killed_script_leaves_a_report_and_no_program(self):
        self.goes("selftest-tf32-never", "hang")
        for request, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            script = subprocess.Popen(self.command("selftest"), env=self.environment(), stdout=subprocess.DEVNULL)
            while not (self.bin / "pid").exists():
                time.sleep(0.05)
            script.send_signal(request)
            self.assertEqual(script.wait(), code)
            self.assert_gone()
            self.assertEqual(self.checks()["selftest", "own kernels in bf16"], "passed")
            self.assertEqual(self.checks()["selftest", "own kernels in tf32"], "cut off")
            (self.bin / "pid").unlink()
        self.assertIn("| own kernels in tf32 | cut off |", (self.folder / "r.md").read_text())
        (self.bin / "selftest-tf32-never").unlink()
        self.assertEqual(self.run_script("selftest").returncode, 0)

    def assert_gone(self):
        pid = int((self.bin / "pid").read_text())
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)

    def test_missing_libraries_are_skipped_by_name(self):
        self.goes("selftest-f32-always", "missing")
        self.assertEqual(self.run_script("selftest-vendor").returncode, 0)
        self.assertEqual(self.checks()["selftest-vendor", "cuDNN and cuBLASLt in f32"], "skipped")
        self.assertIn("(no library)", self.remark("selftest-vendor", "cuDNN and cuBLASLt in f32"))
        (self.bin / "selftest-f32-always").unlink()
        self.calls()
        self.run_script("selftest-vendor")
        self.assertEqual(self.calls(), ["selftest-f32-always"], "it is tried again")

    def test_a_library_that_refuses_or_fails_is_not_passed_over(self):
        self.goes("selftest-f32-always", "refused")
        self.goes("selftest-tf32-always", "missing and fails")
        self.assertEqual(self.run_script("selftest-vendor").returncode, 1)
        self.assertIn("1 passes of convolutions were refused", self.remark("selftest-vendor", "cuDNN and cuBLASLt in f32"))
        self.assertEqual(self.checks()["selftest-vendor", "cuDNN and cuBLASLt in tf32"], "failed")

    def test_a_check_that_is_ended_from_outside_runs_again(self):
        self.goes("selftest-f32-never", "ended")
        self.assertEqual(self.run_script("selftest").returncode, 1)
        self.assertEqual(self.checks()["selftest", "own kernels in f32"], "cut off")

    def test_another_bench_is_refused(self):
        self.assertEqual(self.run_script("cells").returncode, 0)
        self.write("kernels", BENCH + "# changed\n")
        self.assertRegex(self.run_script("steps").stderr, "measured by the bench .* name a new report")

    def test_without_a_usable_pytorch_nothing_is_compared(self):
        self.write("nvidia-smi", NVIDIA_SMI)
        without_gpu = "import types\n__version__ = '2.11'\ncuda = types.SimpleNamespace(is_available=lambda: False)\n"
        for text, words in (
            ("raise ImportError('no such library')", "cannot import torch (ImportError: no such library)"),
            (without_gpu, "PyTorch 2.11 finds no GPU"),
        ):
            (self.folder / "torch.py").write_text(text)
            done = self.run_script("pytorch", device="cuda", PYTHONPATH=str(self.folder))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(set(self.checks().values()), {"skipped"})
            self.assertIn(words, self.remark("pytorch", "cells at 16, compiled, bf16"))
        (self.folder / "r.json").unlink()
        self.assertRegex(self.run_script("pytorch", "--precision", "f32").stderr, "r.md is there already, .* name a new report")
        (self.folder / "r.md").unlink()
        self.assertRegex(self.run_script("pytorch", "--precision", "f32").stderr, "/r is there already, .* name a new report")
        shutil.rmtree(self.folder / "r")
        self.assertEqual(self.run_script("pytorch", "--precision", "f32").returncode, 0)
        self.assertEqual(self.remark("pytorch", "in f32"), "PyTorch is compared in bf16 and tf32")

    def test_the_demo_must_learn_on_a_gpu(self):
        self.write("nvidia-smi", NVIDIA_SMI)
        self.goes("demo", "weak")
        done = self.run_script("train", device="cuda")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(self.checks()["train", "fine-tuning gains 20 points of mAP"], "failed")
        text = (self.folder / "r.md").read_text()
        self.assertIn("# A GPU, with a comma,", text)
        self.assertIn("Driver 580.1", text)

    def test_two_gpus_train_as_one(self):
        self.write("nvidia-smi", NVIDIA_SMI)
        self.assertEqual(self.run_script("gpus", device="cuda").returncode, 0)
        self.assertEqual(set(self.checks().values()), {"skipped"})
        self.assertEqual((self.remark("gpus", "two GPUs train"), self.calls()), ("this machine has one GPU", []))
        self.write("nvidia-smi", TWO_GPUS)
        self.assertEqual(self.run_script("gpus", device="cuda").returncode, 0)
        self.assertEqual(set(self.checks().values()), {"passed"})
        self.assertEqual(sorted(self.calls()), ["synth", "train", "train", "train"])
        self.assertIn("of 20 losses: 0.0e+00", self.remark("gpus", "their losses are the same"))

    def test_two_gpus_that_differ_or_fail_are_seen(self):
        self.write("nvidia-smi", TWO_GPUS)
        self.goes("train", "differs")
        self.assertEqual(self.run_script("gpus", device="cuda").returncode, 1)
        self.assertEqual(self.checks()["gpus", "their losses are the same"], "failed")
        self.goes("train", "second")
        begun = time.monotonic()
        done = subprocess.run([*self.command("gpus", device="cuda")[:-2], "s", "gpus"], env=self.environment(), capture_output=True)
        self.assertLess(time.monotonic() - begun, 30)
        self.assertEqual(done.returncode, 1)
        self.assert_gone()
        report = json.loads((self.folder / "s.json").read_text())
        found = {c["check"]: (c["result"], c["remark"]) for c in report["checks"]}
        self.assertEqual(found["two GPUs train"], ("failed", "error: process 1 of 2: the GPU is gone"))
        self.assertEqual(found["their losses are the same"][0], "skipped")

    def test_a_report_is_of_one_program_on_one_device(self):
        self.assertEqual(self.run_script("train").returncode, 0)
        self.write("ptl-train", PROGRAM + "# changed\n")
        done = self.run_script("train")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "made with program .* name a new report")
        shutil.rmtree(self.folder / "r")
        self.assertRegex(self.run_script("train").stderr, "earlier checks is missing: .* name a new report")

    def test_mistakes_are_one_clear_sentence(self):
        for arguments, words in (
            (["selftests"], "there is no phase selftests: known are selftest, selftest-vendor, train"),
            (["--report", "../x"], "is no name of a report"),
        ):
            done = self.run_script(*arguments)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(words, done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1)
        self.assertIn("is no program", self.run_script("train", PTL_BIN="/nowhere").stderr)

    def test_without_python_there_is_one_clear_sentence(self):
        for tool in ("bash", "dirname", "env"):
            (self.folder / tool).symlink_to(shutil.which(tool))
        done = self.run_script("train", PATH=str(self.folder))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "^gpu-check: python3 in version 3.9 or newer is missing: .*\n$")

    def test_ours_and_pytorchs_stand_side_by_side(self):
        def ours(by, seconds):
            return {"what": "mgn-ptl", "batch": 16, "pass": "step", "convolutions": by, "seconds": seconds}

        machine = {"precision": "bf16", "copy_bytes_per_second": 4e12, "product_flops_per_second": 7e14}
        benches = [{**machine, "rows": [ours("own", 0.05), ours("vendor", 0.04), ours("auto", 0.045)]}]

        def theirs(way, milliseconds):
            row = {"what": "mgn-ptl", "batch": 16, "pass": "step", "milliseconds": milliseconds}
            row.update(images_per_second=16000 / milliseconds, peak_mib=900)
            return {"versions": versions, "way": way, "precision": "bf16", "rows": [row]}

        versions = {"torch": "2.11", "cuda": "13.0", "cudnn": 91000, "gpu": "A GPU"}
        lines = comparison.lines(benches, [theirs("eager", 100), theirs("compiled", 60)])
        self.assertIn("| mgn-ptl | 16 | step | bf16 | 50 | 40 | 45 | 100 | - | 60 | - | 2.5 | 1.5 | 400 | 267 | 900 |", lines)
        self.assertEqual(lines[0], "PyTorch 2.11, CUDA 13.0, cuDNN 91000, A GPU.")
        product = {"what": "product", "flops_per_second": 6e14}
        ceilings = {**theirs("eager", 1), "rows": [{"what": "copy", "bytes_per_second": 3e12}, product]}
        self.assertIn("| product, TFLOP/s | bf16 | 700 | 600 |", comparison.lines(benches, [ceilings]))
        self.assertIn("| copy, GB/s | bf16 | 4000 | 3000 |", comparison.lines(benches, [ceilings]))


if __name__ == "__main__":
    unittest.main()
