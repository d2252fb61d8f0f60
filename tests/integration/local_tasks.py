"""Seven small tasks in mteb's own classes, from the development data, so that no task is fetched."""

import csv
import json
from itertools import pairwise

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskPairClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text.summarization import AbsTaskSummarization


def metadata(name, kind, score, category):
    return TaskMetadata(
        name=name,
        description=name,
        type=kind,
        category=category,
        modalities=["text"],
        dataset={"path": f"local/{name}", "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
        prompt=None,
    )


def jsonl(path, count):
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]


def rows(path, count):
    with path.open(encoding="utf-8") as file:
        return [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]


def topics(path, classes, count):
    """Texts of the first classes of Banking77."""
    found = rows(path, 10**6)
    names = sorted({row["category"] for row in found})[:classes]
    return [row for row in found if row["category"] in names][:count]


def local_tasks(data):
    """One task of each of MTEB's categories."""

    class Local:
        def load_data(self, num_proc=None, **kwargs):
            if not self.data_loaded:
                self.dataset = self.build()
                self.data_loaded = True

    class Banking(Local, AbsTaskClassification):
        metadata = metadata("Banking77Classification", "Classification", "accuracy", "t2c")
        samples_per_label, n_experiments = 4, 3

        def build(self):
            splits = {}
            for name in ("train", "test"):
                chosen = topics(data / "banking77" / f"{name}.csv", 5, 200)
                splits[name] = Dataset.from_dict(
                    {"text": [row["text"] for row in chosen], "label": [row["category"] for row in chosen]}
                )
            return DatasetDict(splits)

    class BankingClusters(Local, AbsTaskClusteringLegacy):
        metadata = metadata("LocalClustering", "Clustering", "v_measure", "t2c")

        def build(self):
            chosen = topics(data / "banking77" / "test.csv", 5, 200)
            sets = {"sentences": [[r["text"] for r in chosen]], "labels": [[r["category"] for r in chosen]]}
            return DatasetDict({"test": Dataset.from_dict(sets)})

    class Entailment(Local, AbsTaskPairClassification):
        metadata = metadata("LocalPairs", "PairClassification", "max_ap", "t2t")

        def build(self):
            triples = jsonl(data / "nli_triples" / "snli_test_triples.jsonl", 60)
            pairs = [(t["anchor"], t[key], label) for t in triples for key, label in (("pos", 1), ("neg", 0))]
            first, second, labels = map(list, zip(*pairs, strict=True))
            return DatasetDict({"test": Dataset.from_dict({"sentence1": first, "sentence2": second, "labels": labels})})

    class Similarity(Local, AbsTaskSTS):
        metadata = metadata("STSBenchmark", "STS", "cosine_spearman", "t2t")
        min_score, max_score = 0, 5

        def build(self):
            with (data / "stsb" / "stsb-en-dev.csv").open(encoding="utf-8") as file:
                chosen = [row for row, _ in zip(csv.reader(file), range(100), strict=False)]
            first, second, scores = map(list, zip(*chosen, strict=True))
            columns = {"sentence1": first, "sentence2": second, "score": [float(score) for score in scores]}
            return DatasetDict({"test": Dataset.from_dict(columns)})

    class Summaries(Local, AbsTaskSummarization):
        metadata = metadata("LocalSummaries", "Summarization", "cosine_spearman", "t2t")
        min_score, max_score = 0, 5

        def build(self):
            """A lead, and how much of it (and of another) the machine's summary holds."""
            leads = [row["pos"] for row in jsonl(data / "wiki_pairs" / "title_lead.jsonl", 12)]
            found = {"text": [], "human_summaries": [], "machine_summaries": [], "relevance": []}
            for lead, other in pairwise(leads):
                words, wrong = lead.split()[:40], other.split()[:40]
                found["text"].append(lead)
                found["human_summaries"].append([" ".join(words)])
                found["machine_summaries"].append([" ".join(words[:k] + wrong[k:]) for k in (0, 10, 20, 30)])
                found["relevance"].append([0.0, 1.0, 2.0, 3.0])
            return DatasetDict({"test": Dataset.from_dict(found)})

    class Claims(Local, AbsTaskRetrieval):
        metadata = metadata("SciFact", "Retrieval", "ndcg_at_10", "t2t")
        reranked = False

        def build(self):
            judged = rows_of_qrels(data / "scifact" / "qrels" / "test.tsv", 20)
            texts = {row["_id"]: row for row in jsonl(data / "scifact" / "queries.jsonl", 10**6)}
            wanted = {document for grades in judged.values() for document in grades}
            corpus = jsonl(data / "scifact" / "corpus.jsonl", 10**6)
            corpus = [r for r in corpus if r["_id"] in wanted] + [r for r in corpus if r["_id"] not in wanted][:60]
            documents = [{"id": r["_id"], "title": r["title"], "text": r["text"][:300]} for r in corpus]
            top = {query: [d["id"] for d in documents] for query in judged} if self.reranked else None
            split = {
                "corpus": Dataset.from_list(documents),
                "queries": Dataset.from_list([{"id": q, "text": texts[q]["text"]} for q in judged]),
                "relevant_docs": judged,
                "top_ranked": top,
            }
            return {"default": {"test": split}}

    class Reranked(Claims):
        metadata = metadata("LocalReranking", "Reranking", "map_at_1000", "t2t")
        reranked = True

    return [kind() for kind in (Banking, BankingClusters, Entailment, Similarity, Summaries, Claims, Reranked)]


def rows_of_qrels(path, count):
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        found.setdefault(query, {})[document] = int(grade)
    return dict(list(found.items())[:count])
