"""Tests the statistics, the choices and the report of the study on made-up measurements: python3 scripts/memory_study/tests.py"""

import tempfile
import unittest
from pathlib import Path

import plan
from differences import Difference, holm
from report import Results, markdown, rates_note, same_rate, verdict
from runs import Table

SEEDS = {stage: list(seeds) for stage, seeds in plan.SEEDS.items()}


def measured(gain, worse=None):
    """Returns results in which each form of memory gains `gain(name)` points over the rest; on the task `worse`, all lose 5."""
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder) / "table.csv")
    names = [name + suffix for name, arm in plan.ARMS.items() for suffix in ([""] + [plan.COLLECTED] * arm.collects)]
    for stage, seeds in SEEDS.items():
        tasks = [plan.TASKS[name] for name in plan.TUNED_ON.values()] if stage == "tuning" else plan.DECIDING
        for task in tasks:
            for name in names:
                for seed in seeds:
                    for rate in plan.RATES if stage == "tuning" else ["2e-3"]:
                        # The middle rate is the best; noise differs between seeds and is the same for all tasks.
                        value = 60 + (rate == "2e-3") + seed % 7 + (gain(name) + 0.3 * (hash_of(name, seed) - 0.5))
                        value -= 5 if task.name == worse and name in plan.FORMS else 0
                        if plan.arm_of(name).fits(task):
                            table.rows[stage, task.name, name, rate, seed] = value
    return Results(table, SEEDS)


def hash_of(name, seed):
    """Returns a number in [0, 1) that looks random."""
    return (sum(map(ord, name)) * 7919 + seed * 104729) % 1009 / 1009


class Statistics(unittest.TestCase):
    def test_holm_by_hand(self):
        self.assertEqual(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
        self.assertEqual(holm([0.5, 0.6]), [1.0, 1.0])

    def test_seeds_are_drawn_and_not_tasks(self):
        # Seven tasks that say the same are no more than one.
        one = [1.0, -0.5, 0.8, 0.1, 0.6, -0.2, 0.9, 0.3]
        alone, repeated = Difference([one]), Difference([one] * 7)
        self.assertAlmostEqual(alone.error, repeated.error)
        self.assertAlmostEqual(alone.p, repeated.p, delta=0.005)
        self.assertAlmostEqual(alone.mean, 0.375)
        # Tasks whose noise cancels say more.
        opposite = Difference([[0.5 + x for x in one], [0.5 - x for x in one]])
        self.assertAlmostEqual(opposite.error, 0.0)
        self.assertLess(opposite.p, 0.001)

    def test_a_symmetric_difference_is_not_significant(self):
        difference = Difference([[1.0, -1.0, 2.0, -2.0, 0.5, -0.5]])
        self.assertGreater(difference.p, 0.5)
        self.assertTrue(difference.interval[0] < 0 < difference.interval[1])


class Choices(unittest.TestCase):
    def test_the_best_form_is_the_candidate_and_wins(self):
        results = measured(lambda name: 1.0 if name == "mean+collected" else 0.0)
        self.assertEqual(results.rate("ids", "plain"), "2e-3")
        self.assertEqual(results.candidate(), "mean+collected")
        self.assertIn("**wins**", verdict(results, "mean+collected"))
        self.assertIn("### Confirmation", markdown(results))

    def test_a_gain_below_half_a_point_does_not_win(self):
        results = measured(lambda name: 0.3 if name == "carry" else 0.0)
        said = verdict(results, "carry")
        self.assertIn("**does not win** against the network without memory: it is below 0.5 points.", said)
        self.assertIn("excludes a gain of 0.5 points", said)

    def test_a_task_that_is_worse_stops_the_candidate(self):
        results = measured(lambda name: 3.0 if name == "carry" else 0.0, worse="light")
        said = verdict(results, "carry")
        self.assertIn("without memory: the candidate is significantly worse on light.", said)
        self.assertIn("does not exclude a gain of 0.5 points", said)

    def test_another_learning_rate_of_the_control_is_said_and_measured(self):
        results = measured(lambda name: 1.0 if name == "carry" else 0.0)
        self.assertEqual(rates_note(results, "carry", plan.DECIDING), "")
        ids = plan.TASKS["ids"]
        for seed in SEEDS["tuning"]:
            results.table.rows["tuning", "ids", plan.CONTROL, "1e-3", seed] = 90.0
        for seed in SEEDS["selection"]:
            carried = results.table.rows["selection", "ids", "carry", "2e-3", seed]
            results.table.rows["selection", "ids", plan.CONTROL, "1e-3", seed] = carried - 2.0
            results.table.rows["selection", "ids", plan.CONTROL, "2e-3", seed] = carried - 5.0
        self.assertIn("for `ids` (2e-3 and 1e-3), `ids-back` (2e-3 and 1e-3): there", rates_note(results, "carry", plan.DECIDING))
        self.assertEqual(results.differences("selection", ids, "carry", plan.CONTROL), [2.0] * 8)
        table = same_rate(results, "carry").splitlines()
        self.assertEqual(table[0], "| against `memoryless` at the rate of `carry`, points | ids | ids-back |")
        self.assertIn("+5.00", table[2])
        self.assertIn("+3.00", table[3])

    def test_a_missing_measurement_leaves_the_choice_open(self):
        results = measured(lambda name: 0.0)
        del results.table.rows[("selection", "ids", "carry", "2e-3", 3)]
        self.assertIsNone(results.candidate())
        del results.table.rows[("tuning", "ids", "plain", "1e-3", 100)]
        self.assertIsNone(results.rate("ids", "plain"))

    def test_a_line_that_was_cut_off_is_dropped(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            table = Table(path)
            table.add(("tuning", "ids", "plain", "1e-3", 100), "mAP", 50.0)
            path.write_text(path.read_text() + "tuning,ids,pl")
            again = Table(path)
            self.assertEqual(again.rows, table.rows)
            self.assertTrue(path.read_text().endswith("50.0000\n"))


if __name__ == "__main__":
    unittest.main()
