"""Clustering of texts: do the clusters of their vectors match their labels?"""

import statistics
from dataclasses import asdict, dataclass

from unmask.data.sources import LabelledTexts
from unmask.encoder import TextEncoder
from unmask.evaluation.quiet import quiet

_BATCH = 512


@dataclass(frozen=True, slots=True)
class ClusteringResult:
    """V-measure in percent, mean over seeds of k-means, with half the range."""

    v_measure: float
    spread: float
    texts: int
    clusters: int
    seeds: int

    def to_dict(self) -> dict[str, float]:
        """For `--json`."""
        return asdict(self)


def evaluate_clustering(
    encoder: TextEncoder,
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
