"""Make the file that ships from a training run's export: half precision, measured defaults.

Run from the repository root:

    python weights/bundle.py runs/base/refiner.safetensors weights/d2s-base.defaults.json \
        weights/d2s-base.safetensors

The defaults file holds "tile", the side of the largest window, and "defaults" by guide name ("*"
for results of other tools), chosen by benchmarks/refine_quality.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from d2s_cli.diffusion.refiner import RefinerConfig
from d2s_cli.weights.reading import read_weights, write_safetensors


def main() -> None:
    parser = argparse.ArgumentParser(description="Bundle a trained refiner with its defaults.")
    parser.add_argument("export", type=Path, help="refiner.safetensors of a training run")
    parser.add_argument("defaults", type=Path, help="JSON with tile and defaults")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    tensors, header = read_weights(args.export)
    chosen = json.loads(args.defaults.read_text())
    config = dataclasses.replace(
        RefinerConfig.from_json(header), tile=chosen["tile"], defaults=chosen["defaults"]
    )
    write_safetensors(args.output, tensors, config.to_json(), torch.float16)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, {config.about}")


if __name__ == "__main__":
    main()
