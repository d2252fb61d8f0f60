"""Files to records, documents to blocks, labelled words: readers whose errors name file and line."""
