"""What a run says while it runs: metrics as JSON lines, TensorBoard, a progress bar with tokens/s and time left."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from unmask.files import write_text
from unmask.training.rate import matrix_rate, peak_bytes


class Monitor:
    """Writes one JSON object a logged step to `metrics.jsonl`, and the same figures to TensorBoard.

    Args:
        folder: the stage's folder.
        stage: name shown in the bar.
        steps: steps in all.
        start: steps done before (a resumed run); later lines of an earlier try are removed.
        accelerator: whose trackers are used; only its main process writes.
        progress: show the bar.
        flops: operations of a token, for the share of the device's products that training reaches.
    """

    def __init__(
        self, folder: Path, stage: str, steps: int, start: int, accelerator: Any, progress: bool, flops: float
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.main = bool(accelerator.is_main_process)
        self._accelerator = accelerator
        self._stage = stage
        self._tokens = 0
        self._device = accelerator.device
        precision = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        processes = int(accelerator.num_processes)
        self._best = processes * matrix_rate(precision, 0.1, self._device) / flops  # tokens a second of products alone
        self._since = time.perf_counter()
        if self.main:
            folder.mkdir(parents=True, exist_ok=True)
            _truncate(self.path, start)
        accelerator.init_trackers(stage)
        self._bar = tqdm(total=steps, initial=start, desc=stage, unit="step", disable=not (progress and self.main))

    def step(self, tokens: int) -> None:
        """Count a finished step."""
        self._tokens += tokens
        self._bar.update(1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write figures measured after `step` finished steps."""
        now = time.perf_counter()
        rate = self._tokens / max(now - self._since, 1e-9)
        self._tokens, self._since = 0, now
        speed = {"tokens_per_second": round(rate, 1), "share_of_products": round(rate / self._best, 3)} if rate else {}
        row = {"step": step, **figures, **speed, "peak_gb": round(peak_bytes(self._device) / 1e9, 2)}
        if self.main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        self._accelerator.log({f"{self._stage}/{k}": v for k, v in row.items() if k != "step"}, step=step)
        shown: dict[str, str] = {k: f"{row[k]:.3g}" for k in ("loss", "accuracy", "masked_accuracy") if k in row}
        if rate:
            shown |= {"tokens/s": f"{rate:,.0f}", "of products": f"{rate / self._best:.0%}"}
        shown["peak"] = f"{row['peak_gb']:.1f} GB"
        self._bar.set_postfix(shown)

    def close(self) -> None:
        """End the bar and the trackers; the processes stay together for the next stage."""
        self._bar.close()
        for tracker in self._accelerator.trackers:
            tracker.finish()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _truncate(path: Path, start: int) -> None:
    """Drop what an earlier, killed try logged beyond the checkpoint that this one starts from."""
    kept = [row for row in read_metrics(path) if row["step"] <= start] if start else []
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
