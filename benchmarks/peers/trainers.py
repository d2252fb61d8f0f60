"""What the Trainers of transformers are given, and steps a second of them."""

import statistics
import tempfile
import time

import torch


def steps_of(times, tokens):
    """Tokens a second from the median step, without the first two."""
    gaps = [b - a for a, b in zip(times, times[1:])]
    return {"tokens_per_second": tokens / statistics.median(gaps[1:])}


class Clock:
    """Notes when each step of a Trainer ends; made a callback where transformers is known."""

    def __new__(cls):
        from transformers import TrainerCallback

        class Noting(TrainerCallback):
            def __init__(self):
                self.times = []

            def on_step_end(self, args, state, control, **kwargs):
                self.times.append(time.perf_counter())

        return Noting()


def trainer_arguments(job, **extra):
    """What both of the released scripts' Trainers are given here."""
    return {
        "output_dir": tempfile.mkdtemp(dir=job["scratch"]),
        "max_steps": job["steps"],
        "per_device_train_batch_size": job["rows"],
        "learning_rate": 1e-4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available() and job["dtype"] == "bfloat16",  # adapters' float32 weights would be slow
        **extra,
    }
