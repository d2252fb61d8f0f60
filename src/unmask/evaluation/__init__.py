"""What an encoder is worth: masked tokens, similarity, retrieval, word labels. Never imports training."""
