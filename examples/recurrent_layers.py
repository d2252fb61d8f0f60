"""Does reading recurrent layers both ways help? MNTP on a small hybrid, `forward` against `two-way`, equal budgets.

    UNMASK_DATA=... python examples/recurrent_layers.py --out runs/recurrent

Pretrains a Qwen3.5-shaped decoder (three gated delta nets to one attention layer) on Wikipedia if `--decoder` is not
there yet, trains MNTP on it with each mode and seed, and prints masked-token accuracy and the word-level tasks of
every rung. A stopped run goes on. About 40 minutes for the decoder and five for each run on two CPU cores.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from ladder_table import load, markdown

from unmask.runs.recipe import load_recipe
from unmask.runs.run import train

HERE = Path(__file__).parent
SHAPE = ["--family", "qwen3_5", "--width", "256", "--layers", "4", "--vocab-size", "4096", "--batch", "32"]


def pretrain(out: Path, steps: int) -> None:
    """The hybrid decoder, from Wikipedia articles."""
    articles = Path(os.environ["UNMASK_DATA"]) / "wiki" / "train.jsonl"
    script = str(HERE / "pretrain_decoder.py")
    command = [sys.executable, script, *SHAPE, "--steps", str(steps), "--out", str(out), str(articles)]
    subprocess.run(command, check=True)


def run(decoder: Path, mode: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The pocket-wiki recipe without SimCSE and similarity tasks, on the hybrid."""
    recipe = load_recipe(
        "pocket-wiki",
        [
            "name=recurrent-layers",
            f"seed={seed}",
            f"model.name={decoder}",
            f"model.recurrent={mode}",
            f"stages.mntp.steps={arguments.steps}",
            "evaluation.sts={}",
            *arguments.set,
        ],
    )
    recipe = recipe.model_copy(update={"stages": recipe.stages[:1]})
    folder = arguments.out / f"{mode}-{arguments.steps}-{seed}"
    train(recipe, folder, progress=True)
    return folder


def main() -> None:
    """Parse, pretrain, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--decoder", type=Path, help="default: OUT/decoder, pretrained if it is not there")
    parser.add_argument("--pretrain-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=100, help="of MNTP, 8,192 tokens each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `unmask train`")
    parser.add_argument("--modes", nargs="+", default=["forward", "two-way"])
    arguments = parser.parse_args()
    decoder = arguments.decoder or arguments.out / "decoder"
    if not decoder.is_dir():
        pretrain(decoder, arguments.pretrain_steps)
    for mode in arguments.modes:
        folders = [run(decoder, mode, seed, arguments) for seed in arguments.seeds]
        sys.stdout.write(f"\n## {mode}\n\n{markdown(load(folders))}\n")


if __name__ == "__main__":
    main()
