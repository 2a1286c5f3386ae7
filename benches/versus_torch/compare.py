"""Measures every work in both programs in turn, and reports the times."""

import argparse
import contextlib
import math
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import inputs
import machine
import report
import variants
import works
from checks import Mismatch, compare
from programs import Failed, Programs

# A run that is shorter is repeated, so that a measurement takes at least so many seconds.
SHORTEST = 0.3
# A program whose run takes longer than so many seconds is measured once.
LONGEST = 30
ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "measurements" / "cpu-vs-pytorch.md"


@dataclass
class Series:
    """Runs of both programs in turn, in seconds."""

    variant: variants.Variant
    ours: list = field(default_factory=list)
    theirs: list = field(default_factory=list)
    # Seconds of the parts in each run, if the work has parts.
    our_parts: list = field(default_factory=list)
    their_parts: list = field(default_factory=list)
    peaks_kib: list = field(default_factory=list)

    def add(self, ours, theirs):
        """Adds a run of ours and one of theirs."""
        self.ours.append(ours["seconds"])
        self.theirs.append(theirs["seconds"])
        self.our_parts.append(ours.get("parts", []))
        self.their_parts.append(theirs.get("parts", []))

    def __str__(self):
        return f"in turn with {self.variant}: ours {statistics.median(self.ours):.4g} s, ratio {self.ratio():.2f}"

    def ratio(self):
        """Returns PyTorch's median by ours: above 1 we are faster."""
        return statistics.median(self.theirs) / statistics.median(self.ours)


@dataclass
class Result:
    """What was measured of a work."""

    work: works.Work
    difference: float = 0.0
    plain: Series = None
    best: Series = None
    error: str = ""


def count_for(seconds):
    """Returns how often a work is done in one measurement."""
    return max(1, min(200, math.ceil(SHORTEST / seconds)))


def compiler():
    """Returns the C++ compiler that `torch.compile` would find, or `None`."""
    return shutil.which("c++") or shutil.which("g++")


def positive(text):
    """Reads a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: use a whole number of at least 1")
    return int(text)


class Comparison:
    """Measures works with one number of threads and one instruction set."""

    def __init__(self, options, threads, isa):
        self.options = options
        self.programs = Programs(options, threads, isa)
        self.compiler = not options.no_compile and compiler()

    def measure(self, work):
        """Returns the result of a work; one that fails has an error and no times."""
        result = Result(work)
        folder = self.options.scratch / "works" / work.name
        try:
            inputs.write(work, folder)
            with self.programs.start_ours(work, folder) as ours:
                self.measure_with(ours, folder, result)
        except (Failed, Mismatch) as error:
            result.error, result.plain, result.best = str(error), None, None
        shutil.rmtree(folder) if not result.error else None
        return result

    def measure_with(self, ours, folder, result):
        expected, kind = ours.ask("check"), result.work.spec["kind"]
        plain = variants.plain(kind)
        found = [] if self.options.check else variants.others(kind, bool(self.options.tcmalloc), self.compiler)
        seconds = {}
        for variant in [plain, *found]:
            with self.programs.start_torch(result.work, folder, variant) as theirs:
                difference, seconds[variant] = self.try_out(expected, theirs, result.work)
                result.difference = max(result.difference, difference)
            say(f"    {variant}: {seconds[variant]:.4g} s, largest relative difference {difference:.1e}")
        if self.options.check:
            return
        best = min(seconds, key=seconds.get)
        series = self.in_turn(ours, folder, result.work, dict.fromkeys([plain, best]), expected)
        # The first tries may have been disturbed: runs in turn decide.
        result.plain, result.best = series[plain], min(series.values(), key=Series.ratio)

    def try_out(self, expected, theirs, work):
        """Checks a variant's numbers, and returns their largest difference with the time of a run."""
        start = time.perf_counter()
        difference = compare(expected, theirs.ask("check"), work.tolerance)
        taken = time.perf_counter() - start
        # Rankings take longest, and what was checked is the same work.
        is_ranking = work.spec["kind"] in ("ranking", "reranking")
        if self.options.check or is_ranking and taken > LONGEST:
            return difference, taken
        count = count_for(theirs.seconds())
        return difference, min(theirs.seconds(count) for _ in range(1 if self.options.quick else 2))

    def in_turn(self, ours, folder, work, chosen, expected):
        """Measures our program and variants in turn, and returns a series for each variant."""
        ours.seconds()
        with contextlib.ExitStack() as stack:
            others = {}
            for variant in chosen:
                theirs = stack.enter_context(self.programs.start_torch(work, folder, variant))
                compare(expected, theirs.ask("check"), work.tolerance)
                first = theirs.seconds()
                others[variant] = theirs, count_for(first), Series(variant)
            count = count_for(ours.seconds())
            for number in range(self.options.pairs):
                # Each program is the first one in its turn.
                programs = [(ours, count, None), *others.values()]
                turn = number % len(programs)
                runs = {}
                for program, times, series in programs[turn:] + programs[:turn]:
                    if series is None or number == 0 or series.theirs[0] <= LONGEST:
                        runs[program] = program.ask(f"run {times}")
                for theirs, _, series in others.values():
                    if theirs in runs:
                        series.add(runs[ours], runs[theirs])
            peak = ours.ask("quit")["peak_kib"]
            for theirs, _, series in others.values():
                series.peaks_kib = [peak, theirs.ask("quit")["peak_kib"]]
                say(f"    {series}")
        return {variant: series for variant, (_, _, series) in others.items()}


def say(line):
    """Reports progress."""
    print(line, file=sys.stderr, flush=True)


def read_options():
    """Reads the flags."""
    parser = argparse.ArgumentParser(prog="benches/versus_torch/run", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="works whose names match, such as 'step-*'; can be repeated"
    )
    parser.add_argument(
        "--pairs",
        type=positive,
        metavar="N",
        help="runs of each program, in turn (default 5, with --quick 2); PyTorch runs once where that takes more than 30 s",
    )
    parser.add_argument(
        "--threads",
        type=lambda text: [positive(item) for item in text.split(",")],
        default=[machine.cores()],
        metavar="N[,N]",
        help="threads of both programs (default: all cores)",
    )
    parser.add_argument(
        "--isa", default="native", metavar="ISA[,ISA]", help="the most that both programs may use: native (no limit; the default), avx2 or avx512"
    )
    parser.add_argument("--quick", action="store_true", help="two pairs, no torch.compile, less to load and to rank")
    parser.add_argument(
        "--check", action="store_true", help="compare the numbers of the plain variants only, measure nothing"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-tcmalloc", action="store_true", help="leave tcmalloc out")
    parser.add_argument("--list", action="store_true", help="list the works")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"the report (default: {DOCUMENT.relative_to(ROOT)} if every work is measured with every variant in at least 5 pairs, "
        "else target/versus_torch/report.md)",
    )
    for internal in ("--ours", "--tcmalloc", "--scratch"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for isa in options.isa.split(","):
        if isa not in ("native", "avx2", "avx512"):
            parser.error(f"--isa {isa}: use native, avx2 or avx512")
        if isa != "native" and not machine.has(isa):
            parser.error(f"--isa {isa}: this processor does not have it")
    if options.only and not works.chosen(works.all_works(1, options.quick), options.only):
        parser.error(f"--only {' '.join(options.only)}: no work has such a name; --list shows them all")
    options.scratch = Path(options.scratch).resolve()
    options.no_compile |= options.quick
    options.pairs = options.pairs or (2 if options.quick else 5)
    if options.no_tcmalloc:
        options.tcmalloc = ""
    if options.output is None:
        partial = (options.only, options.quick, options.check, options.no_compile, options.no_tcmalloc)
        whole = not any(partial) and options.pairs >= 5 and options.tcmalloc and compiler()
        options.output = DOCUMENT if whole else options.scratch / "report.md"
    return options


def main():
    options = read_options()
    sections, failed = [], 0
    for isa in options.isa.split(","):
        for threads in options.threads:
            every = works.all_works(threads, options.quick)
            chosen = works.chosen(every, options.only)
            if options.list:
                print(*(f"{work.name}: {work.about}" for work in chosen), sep="\n")
                return 0
            comparison, results = Comparison(options, threads, isa), []
            sections.append((isa, threads, results))
            for number, work in enumerate(chosen, start=1):
                say(f"{number}/{len(chosen)} {work.name}, {threads} threads, {isa}: {work.about}")
                result = comparison.measure(work)
                results.append(result)
                if result.error:
                    failed += 1
                    say(f"    FAILED: {result.error}")
                options.output.write_text(report.document(machine.about(options), sections, len(chosen), every))
    print(report.terminal(sections))
    say(f"the report is {options.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
