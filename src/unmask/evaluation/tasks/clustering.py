"""Clustering of texts: do the clusters of their vectors match their labels?"""

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from unmask.data.sources import LabelledTexts, read_labelled_texts
from unmask.evaluation.quiet import quiet
from unmask.evaluation.tasks.record import SOURCE, AskedQuoting, InputFile, Measure, Prompt, Task, scored_by
from unmask.settings import Settings

if TYPE_CHECKING:
    from unmask.encoder import TextEncoder

_BATCH = 512


class ClusteringSettings(Settings):
    """Texts with labels for k-means."""

    file: InputFile = Field(description=SOURCE)
    columns: tuple[str, str] = Field(("text", "label"), strict=False, description="names of the text and of the label")
    seeds: int = Field(10, ge=1, description="of k-means (default: 10)")
    quoting: AskedQuoting = "standard"
    prompt: Prompt = None


@dataclass(frozen=True, slots=True)
class ClusteringResult:
    """V-measure in percent, mean over seeds of k-means, with half the range."""

    v_measure: float
    spread: float
    texts: int
    clusters: int
    seeds: int


def evaluate_clustering(
    encoder: "TextEncoder",
    data: LabelledTexts,
    *,
    seeds: int = 10,
    prompt: str | None = None,
    progress: bool = False,
) -> ClusteringResult:
    """Mini-batch k-means with as many clusters as labels (as MTEB does), scored by V-measure."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    vectors = encoder.encode(data.texts, prompt=prompt, progress=progress)
    clusters = len(set(data.labels))
    found = []
    for seed in range(seeds):
        with quiet():
            means = MiniBatchKMeans(clusters, batch_size=_BATCH, n_init="auto", random_state=seed).fit(vectors)
        found.append(100 * float(v_measure_score(data.labels, means.labels_)))
    return ClusteringResult(statistics.fmean(found), (max(found) - min(found)) / 2, len(data.texts), clusters, seeds)


CLUSTERING = Task(
    name="clustering",
    help="texts with labels: V-measure of k-means",
    settings=ClusteringSettings,
    read=lambda settings: read_labelled_texts(settings.file, settings.columns, quoting=settings.quoting),
    score=scored_by(evaluate_clustering, "seeds", "prompt"),
    measures=(Measure("v_measure", "V-measure, %", " V-measure"),),
    example="clustering pocket-bi --data topics.csv",
)
