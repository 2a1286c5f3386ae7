"""Starts the two programs, and asks them to work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import machine

HERE = Path(__file__).parent
# Variables that limit the instructions of PyTorch and its libraries.
TORCH_ISA = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
ISA = {"avx2": ("AVX2", "avx2", "AVX2"), "avx512": ("AVX512_CORE", "avx512", "AVX512")}
# NumPy takes the features that it must not use.
NUMPY_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"


class Failed(Exception):
    """A program that ended early or answered with an error."""


class Program:
    """A program that has set a work up; it ends with the `with` block. Variables of the environment that are `None` are taken away."""

    def __init__(self, command, environment, log):
        self.log = log
        with open(log, "w") as errors:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
            self.process = subprocess.Popen(command, env=variables, text=True, **pipes)
        self.about = self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def answer(self):
        """Reads the next answer."""
        for line in self.process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                if "error" in answer:
                    raise Failed(answer["error"])
                return answer
        last = Path(self.log).read_text().strip().splitlines()[-3:]
        raise Failed(f"{self.log}: " + " / ".join(last or ["the program has ended"]))

    def ask(self, command):
        """Sends a command and returns the answer."""
        try:
            print(command, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass
        return self.answer()

    def seconds(self, count=1):
        """Lets the program work `count` times and returns the mean seconds."""
        return self.ask(f"run {count}")["seconds"]


class Programs:
    """How both programs are started."""

    def __init__(self, options, threads, isa):
        self.ours, self.tcmalloc, self.scratch = options.ours, options.tcmalloc, options.scratch
        self.threads, self.isa = threads, isa

    def spec(self, work, folder):
        """Returns the description of a work for both programs."""
        return json.dumps({**work.spec, "folder": str(folder), "isa": self.isa})

    def start_ours(self, work, folder):
        """Starts the Rust program."""
        environment = {"RAYON_NUM_THREADS": str(self.threads), "LD_PRELOAD": None}
        environment["PTL_MAX_ISA"] = None if self.isa == "native" else self.isa
        return Program([self.ours, self.spec(work, folder)], environment, folder / "ours.log")

    def start_torch(self, work, folder, variant):
        """Starts the Python program."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = dict.fromkeys(names, str(self.threads))
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(self.scratch / "inductor")
        environment |= dict(zip(TORCH_ISA, ISA.get(self.isa, [None] * len(TORCH_ISA))))
        environment["NPY_DISABLE_CPU_FEATURES"] = NUMPY_AVX512 if self.isa == "avx2" and machine.has("avx512") else None
        environment["LD_PRELOAD"] = self.tcmalloc if variant.tcmalloc else None
        command = [sys.executable, str(HERE / "torch_worker.py"), self.spec(work, folder)]
        command += [json.dumps(variant.spec()), str(self.threads)]
        return Program(command, environment, folder / f"{variant}.log")
