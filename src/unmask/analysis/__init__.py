"""Looking inside: attention, neighbours, plots, and the page that holds them. Never imports training."""
