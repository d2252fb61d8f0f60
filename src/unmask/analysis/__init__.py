"""Looking inside: layers, attention, plots, and the page that holds them. Never imports training."""
