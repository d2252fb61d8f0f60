"""Word-level evaluation as the released experiment script does it; runs in the environment of `make oracle`.

That script is not part of the package on the index and knows one hub data set only, so what it does is done here again,
on local files: for each task a Trainer run in which the frozen model reads the whole training set in every epoch, word
means made by a loop over the rows and words of a batch, dropout 0.1 and a linear layer on top, batches of 8, AdamW at
5e-4 falling linearly over 10 epochs; then a pass over the test set in batches of 32. Without the script's evaluation
every 500 steps and its checkpoints, which cost it more.
"""

import argparse
import json
import tempfile

import torch
from llm2vec import LLM2Vec
from torch import nn
from transformers import DataCollatorForTokenClassification, Trainer, TrainingArguments
from transformers.modeling_outputs import TokenClassifierOutput

IGNORED = -100


class WordClassifier(nn.Module):
    """The frozen model, word means, dropout, a linear layer."""

    def __init__(self, model, num_labels):
        super().__init__()
        self.model, self.num_labels = model, num_labels
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(model.config.hidden_size, num_labels)
        self.config = model.config
        for parameter in model.parameters():
            parameter.requires_grad = False

    def forward(self, input_ids, attention_mask, token_type_ids, labels):
        """`token_type_ids` carries the number of each token's word, -1 outside of words."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        merged = states.clone()
        for row in range(len(states)):
            for word in range(int(token_type_ids[row].max()) + 1):
                own = (token_type_ids[row] == word) & (attention_mask[row] > 0)
                merged[row][own] = states[row][own].mean(dim=0).expand(int(own.sum()), -1)
        logits = self.classifier(self.dropout(merged))
        loss = nn.functional.cross_entropy(logits.view(-1, self.num_labels), labels.view(-1), ignore_index=IGNORED)
        return TokenClassifierOutput(loss=loss, logits=logits)


def read(path):
    """Sentences of (word, label, label ...) rows."""
    with open(path, encoding="utf-8") as file:
        blocks = file.read().strip().split("\n\n")
    return [[line.split() for line in block.splitlines()] for block in blocks]


def prepare(sentences, column, names, tokenizer):
    """Token ids, the word of each token, the label on each word's first token."""
    rows = []
    for sentence in sentences:
        encoded = tokenizer([row[0] for row in sentence], is_split_into_words=True, truncation=True, max_length=512)
        words = encoded.word_ids()
        first = [word is not None and word != before for word, before in zip(words, [None, *words])]
        rows.append(
            {
                "input_ids": encoded["input_ids"],
                "attention_mask": encoded["attention_mask"],
                "token_type_ids": [-1 if word is None else word for word in words],
                "labels": [names[sentence[word][column]] if new else IGNORED for word, new in zip(words, first)],
            }
        )
    return rows


class Collator(DataCollatorForTokenClassification):
    """Pads the word numbers with -1."""

    def torch_call(self, features):
        """Stack and pad."""
        words = [feature["token_type_ids"] for feature in features]
        batch = super().torch_call([{k: v for k, v in f.items() if k != "token_type_ids"} for f in features])
        width = batch["input_ids"].shape[1]
        left = self.tokenizer.padding_side == "left"
        padded = [[-1] * (width - len(row)) + row if left else row + [-1] * (width - len(row)) for row in words]
        batch["token_type_ids"] = torch.tensor(padded)
        return batch


def accuracy(model, data, collator):
    """Share of labelled words that are right."""
    right = total = 0
    for start in range(0, len(data), 32):
        batch = collator([data[i] for i in range(start, min(start + 32, len(data)))])
        with torch.no_grad():
            predicted = model(**batch).logits.argmax(dim=-1)
        counted = batch["labels"] != IGNORED
        right += int((predicted == batch["labels"])[counted].sum())
        total += int(counted.sum())
    return 100 * right / total


def main():
    """Every task in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    loaded = LLM2Vec.from_pretrained(arguments.model, enable_bidirectional=True, torch_dtype=torch.float32)
    tokenizer = loaded.tokenizer
    train, test = read(arguments.train), read(arguments.test)
    found = {}
    for column in range(1, len(train[0][0])):
        labels = sorted({row[column] for sentence in [*train, *test] for row in sentence})
        names = {label: number for number, label in enumerate(labels)}
        model = WordClassifier(loaded.model, len(names))
        collator = Collator(tokenizer)
        data, held = (prepare(sentences, column, names, tokenizer) for sentences in (train, test))
        with tempfile.TemporaryDirectory() as scratch:
            settings = TrainingArguments(
                output_dir=scratch,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=8,
                learning_rate=5e-4,
                save_strategy="no",
                report_to=[],
                remove_unused_columns=False,
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                seed=0,
            )
            Trainer(model=model, args=settings, train_dataset=data, data_collator=collator).train()
        model.eval()
        found[str(column)] = accuracy(model, held, collator)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
