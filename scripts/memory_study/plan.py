"""What the study runs: its tasks, arms, learning rates, seeds and stages, as docs/study-protocol.md names them."""

from dataclasses import dataclass

RATES = ["1e-3", "2e-3", "4e-3"]

# Seeds of each stage. No seed is in two of them.
SEEDS = {"tuning": range(100, 102), "selection": range(0, 8), "confirmation": range(20, 40)}


@dataclass(frozen=True)
class Task:
    """A fine-tuning on a target, from weights of a source (none: from scratch)."""

    name: str
    # "ids" or "classes" of Omniglot, or "drawn" for pedestrians.
    kind: str
    source: str
    target: str
    # Identities and images of each in a batch.
    batch: tuple = (4, 4)

    @property
    def figure(self):
        """The name of the measured figure."""
        return "top1" if self.kind == "classes" else "mAP"


DECIDING = [
    Task("ids", "ids", "source", "target"),
    Task("ids-back", "ids", "target", "source"),
    Task("classes", "classes", "source", "target"),
    Task("classes-back", "classes", "target", "source"),
    Task("light", "drawn", "drawn-source", "light"),
    Task("viewpoint", "drawn", "drawn-source", "viewpoint"),
    Task("occlusion", "drawn", "drawn-source", "occlusion"),
]
DESCRIBING = [Task("scratch", "ids", "", "target")] + [
    Task(f"{ids}x{images}", "ids", "source", "target", (ids, images)) for ids, images in [(2, 2), (4, 2), (8, 4), (16, 4)]
]
TASKS = {task.name: task for task in DECIDING + DESCRIBING}

# The task on which the learning rates of a kind are chosen.
TUNED_ON = {"ids": "ids", "classes": "classes", "drawn": "light"}


@dataclass(frozen=True)
class Arm:
    """A network and what happens to its latent state."""

    name: str
    flags: str
    # Whether it is also evaluated from the state that was collected.
    collects: bool = False
    only_identities: bool = False

    def fits(self, task):
        """Returns whether the arm exists for `task`."""
        return task.kind != "classes" or not self.only_identities


PTL = "--arch resnet18-ptl"
ARMS = {
    arm.name: arm
    for arm in [
        Arm("plain", "--arch resnet18"),
        Arm("residual", f"{PTL} --ptl-block residual"),
        Arm("memoryless", f"{PTL} --state-policy reset"),
        Arm("carry", PTL),
        Arm("carry-epochs", f"{PTL} --state-policy carry-epochs"),
        Arm("published", f"{PTL} --state-policy reset --state-init normal --eval-state normal"),
        Arm("two-steps", f"{PTL} --state-steps 2"),
        Arm("permuted", f"{PTL} --state-form permuted"),
        Arm("mean", f"{PTL} --state-form mean", collects=True),
        Arm("average", f"{PTL} --state-form average --state-rate 0.1 --state-policy carry-epochs", collects=True),
        Arm(
            "channel-average",
            f"{PTL} --state-form channel-average --state-rate 0.1 --state-policy carry-epochs",
            collects=True,
        ),
        Arm("class", f"{PTL} --state-form class --state-rate 0.5 --state-policy carry-epochs", collects=True),
        Arm("xbm", "--arch resnet18 --triplet-memory 256", only_identities=True),
    ]
}
# Added to the name of an arm that is evaluated from what it has collected.
COLLECTED = "+collected"
# Forms of memory, from which the selection takes its candidate.
FORMS = ["carry", "carry-epochs", "two-steps", "permuted"] + [
    name + suffix for name, arm in ARMS.items() if arm.collects for suffix in ("", COLLECTED)
]
CONTROL = "memoryless"
# What the candidate is confirmed beside.
CONFIRMED = ["plain", "residual", "memoryless", "carry", "published"]
# What the candidate is described beside.
DESCRIBED = ["plain", "memoryless", "carry"]


def arm_of(name):
    """Returns the arm that an evaluation belongs to."""
    return ARMS[name.removesuffix(COLLECTED)]
