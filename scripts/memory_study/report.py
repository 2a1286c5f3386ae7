"""Chooses learning rates and the candidate, and writes the report in Markdown."""

import plan
from differences import Difference, deviation, holm, mean

# The smallest effect that matters, in points, and the level of the tests.
SMALLEST, LEVEL = 0.5, 0.05


class Results:
    """The measurements, with what follows from them."""

    def __init__(self, table, seeds):
        self.table, self.seeds = table, seeds

    def of_seeds(self, stage, task, name, rate):
        """Returns the measurements of a stage by seed, `None` where one is missing."""
        return [self.table.get(stage, task.name, name, rate, seed) for seed in self.seeds[stage]]

    def rate(self, kind, name):
        """Returns the learning rate of an arm for a kind of task: the best mean of the tuning; `None` until the tuning is done. What is
        evaluated from its collected state was trained as the arm itself, with its rate."""
        arm, task = plan.arm_of(name), plan.TASKS[plan.TUNED_ON[kind]]
        if not arm.fits(task):
            return None
        found = {rate: self.of_seeds("tuning", task, arm.name, rate) for rate in plan.RATES}
        if any(value is None for values in found.values() for value in values):
            return None
        return max(plan.RATES, key=lambda rate: mean(found[rate]))

    def values(self, stage, task, name):
        """Returns the measurements of an arm at its learning rate by seed; `None` if one is missing, or where there is no such arm."""
        rate = self.rate(task.kind, name)
        values = [None] if rate is None else self.of_seeds(stage, task, name, rate)
        return None if None in values else values

    def differences(self, stage, task, name, baseline):
        """Returns the paired differences by seed; `None` if a measurement is missing."""
        pair = [self.values(stage, task, arm) for arm in (name, baseline)]
        return None if None in pair else [a - b for a, b in zip(*pair)]

    def over_tasks(self, stage, name, baseline):
        """Returns the difference over the tasks that decide; `None` if a measurement is missing."""
        found = [self.differences(stage, task, name, baseline) for task in plan.DECIDING if plan.arm_of(name).fits(task)]
        return None if None in found else Difference(found)

    def candidate(self):
        """Returns the form of memory with the largest mean gain over the control in the selection; `None` until that is done."""
        gains = {name: self.over_tasks("selection", name, plan.CONTROL) for name in plan.FORMS}
        return None if None in gains.values() else max(gains, key=lambda name: gains[name].mean)


def table(header, rows):
    """Returns a table in Markdown."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plus_minus(values):
    """Formats mean and sample standard deviation over seeds."""
    return "" if values is None else f"{mean(values):.2f} ± {deviation(values):.2f}"


def points(difference):
    """Formats a difference with its interval."""
    if difference is None:
        return ""
    low, high = difference.interval
    return f"{difference.mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def names_for(tasks):
    """Returns the names under which all arms are measured, in the order of the arms."""
    names = []
    for name, arm in plan.ARMS.items():
        if any(arm.fits(task) for task in tasks):
            names += [name] + ([name + plan.COLLECTED] if arm.collects else [])
    return names


def measured(results, stage, tasks, names):
    """Returns whether an arm has been measured on a task with all seeds of a stage."""
    return any(results.values(stage, task, name) is not None for task in tasks for name in names)


def scores(results, stage, tasks, names):
    """Returns the table of scores of a stage."""
    rows = [[name] + [plus_minus(results.values(stage, task, name)) for task in tasks] for name in names]
    return table([f"{plan_title(stage)}, %", *[f"{task.name} ({task.figure})" for task in tasks]], rows)


def plan_title(stage):
    """Returns what a stage measures on."""
    return "test" if stage == "confirmation" else "validation"


def gains(results, stage, tasks, names, baseline):
    """Returns the table of differences from a baseline, by task and over the tasks that decide."""
    decide = tasks == plan.DECIDING
    rows = []
    for name in names:
        if name == baseline:
            continue
        found = [results.differences(stage, task, name, baseline) for task in tasks]
        row = [name] + ["" if values is None else points(Difference([values])) for values in found]
        # An arm that some tasks do not have has no mean over all of them.
        whole = results.over_tasks(stage, name, baseline) if None not in found else None
        rows.append(row + ([points(whole)] if decide else []))
    header = [f"against `{baseline}`, points", *[task.name for task in tasks]]
    return table(header + (["all"] if decide else []), rows)


def verdict(results, candidate):
    """Returns the test of the candidate and its consequence by the rule of the protocol, in sentences; `None` until the confirmation is
    done."""
    baselines = [plan.CONTROL, "plain", "residual"]
    found = [results.over_tasks("confirmation", candidate, baseline) for baseline in baselines]
    if None in found:
        return None
    corrected = holm([difference.p for difference in found])
    lines = [
        f"- `{candidate}` against `{baseline}`: {points(difference)} points, p = {difference.p:.4f}, {p:.4f} by Holm's method."
        for baseline, difference, p in zip(baselines, found, corrected)
    ]
    worse = []
    for task in plan.DECIDING:
        values = results.differences("confirmation", task, candidate, plan.CONTROL) if plan.arm_of(candidate).fits(task) else None
        if values is not None:
            difference = Difference([values])
            if difference.p < LEVEL and difference.mean <= -SMALLEST:
                worse.append(task.name)
    against = []
    if corrected[0] >= LEVEL:
        against.append("the difference is not significant")
    if found[0].mean < SMALLEST:
        against.append(f"it is below {SMALLEST} points")
    if worse:
        against.append(f"the candidate is significantly worse on {', '.join(worse)}")
    lines.append(
        f"- By the rule of the protocol, `{candidate}` **{'does not win' if against else 'wins'}** against the network without memory"
        + (f": {', and '.join(against)}." if against else ".")
    )
    excluded = "excludes" if found[0].interval[1] < SMALLEST else "does not exclude"
    lines.append(f"- The 95 % interval of the first difference {excluded} a gain of {SMALLEST} points, the smallest that matters.")
    errors = ", ".join(f"{difference.error:.2f} ({baseline})" for baseline, difference in zip(baselines, found))
    lines.append(
        f"- Standard error of the mean over tasks, in points: {errors}. A true effect of 2.8 standard errors is found by a single "
        "test at 5 % with a probability of 80 %."
    )
    return "\n".join(lines) + "\n"


def rates_note(results, candidate, tasks):
    """Returns a sentence on the tasks where the candidate and the control were trained at different learning rates, or an empty text."""
    names = [candidate, plan.CONTROL]
    pairs = {task.name: [results.rate(task.kind, name) for name in names] for task in tasks}
    differing = [f"`{name}` ({theirs} and {own})" for name, (theirs, own) in pairs.items() if theirs != own]
    if not differing:
        return ""
    return (
        f"`{candidate}` and `{plan.CONTROL}` have chosen different learning rates for {', '.join(differing)}: there, their difference is one of the "
        "rate as well as of the memory.\n"
    )


def same_rate(results, candidate):
    """Returns the table of the candidate against the control at the candidate's learning rate, on tasks where the control has chosen another one, and
    of the control against itself at its own; an empty text if none is measured."""
    tasks, rows = [], [[f"`{candidate}`"], [f"`{plan.CONTROL}` at its own rate"]]
    for task in plan.DECIDING + plan.DESCRIBING:
        rate = results.rate(task.kind, candidate)
        control = results.of_seeds("selection", task, plan.CONTROL, rate)
        if rate == results.rate(task.kind, plan.CONTROL) or None in control:
            continue
        tasks.append(task)
        for row, name in zip(rows, [candidate, plan.CONTROL]):
            values = results.values("selection", task, name)
            row.append(points(values and Difference([[a - b for a, b in zip(values, control)]])))
    header = [f"against `{plan.CONTROL}` at the rate of `{candidate}`, points", *[task.name for task in tasks]]
    return table(header, rows) if tasks else ""


def markdown(results):
    """Returns the report of what has been measured so far."""
    parts = ["### Learning rates\n"]
    rows = []
    for name, arm in plan.ARMS.items():
        rates = [results.rate(kind, name) or "" for kind in plan.TUNED_ON]
        rows.append([name, *rates])
    parts.append(table(["chosen on validation", *plan.TUNED_ON], rows))
    names = names_for(plan.DECIDING)
    parts += ["### Selection\n", scores(results, "selection", plan.DECIDING, names)]
    parts.append(gains(results, "selection", plan.DECIDING, names, plan.CONTROL))
    candidate = results.candidate()
    if candidate is None:
        return "\n".join(parts)
    parts.append(f"The candidate, the form of memory with the largest mean gain: `{candidate}`.\n")
    described = list(dict.fromkeys([*plan.DESCRIBED, candidate]))
    parts.append("### Batches and pre-training\n")
    if measured(results, "selection", plan.DESCRIBING, described):
        parts.append(scores(results, "selection", plan.DESCRIBING, described))
        parts.append(gains(results, "selection", plan.DESCRIBING, described, plan.CONTROL))
        parts.append(rates_note(results, candidate, plan.DESCRIBING))
    else:
        parts.append("Not measured yet.\n")
    confirmed = list(dict.fromkeys([*plan.CONFIRMED, candidate]))
    parts.append("### Confirmation\n")
    if measured(results, "confirmation", plan.DECIDING, confirmed):
        parts.append(scores(results, "confirmation", plan.DECIDING, confirmed))
        for baseline in [plan.CONTROL, "plain", "residual"]:
            parts.append(gains(results, "confirmation", plan.DECIDING, confirmed, baseline))
    parts.append(verdict(results, candidate) or "The confirmation is not done.\n")
    parts.append(rates_note(results, candidate, plan.DECIDING))
    equal = same_rate(results, candidate)
    if equal:
        parts += ["### At the same learning rate\n", equal]
    return "\n".join(part for part in parts if part)
