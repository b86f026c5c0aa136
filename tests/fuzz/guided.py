"""One target under atheris, which looks at what code its changes reach: ``python guided.py TARGET [options of libFuzzer]``."""

from __future__ import annotations

import random
import sys

import atheris

with atheris.instrument_imports(include=["replkv"]):
    import loop
    from targets import TARGETS


def main() -> None:
    """Run until libFuzzer has enough; it ends the process."""
    target = TARGETS[sys.argv[1]]
    seeds = list(target.seeds())

    def read(data: bytes) -> None:
        for variant in target.variants(data):
            loop.outcome(target, variant, measure=False)

    def change(data: bytes, largest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = target.mutant(rng, data, seeds) if rng.random() < 0.5 else atheris.Mutate(data, largest)
        return bytes(changed[:largest])

    atheris.Setup([sys.argv[0], *sys.argv[2:]], read, custom_mutator=change)
    atheris.Fuzz()


main()
