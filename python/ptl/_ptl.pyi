from typing import Sequence

__version__: str

class Error(Exception): ...

class Model:
    settings: str
    class_count: int
    class_names: list[str]
    device: str
    @staticmethod
    def load(path: str, settings: Sequence[tuple[str, str]]) -> Model: ...
    def run(self, images: Sequence[str | tuple[bytes, int, int, int]], probabilities: bool) -> tuple[bytearray, int]: ...

def rank(
    features: Sequence[bytes],
    dim: int,
    labels: Sequence[tuple[list[int], list[int]]],
    keep_same_camera: bool,
    max_rank: int,
) -> str: ...
def rerank(features: Sequence[bytes], dim: int, k: tuple[int, int], lambda_value: float, variant: str) -> bytearray: ...
def main(args: Sequence[str]) -> int: ...
