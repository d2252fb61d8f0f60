"""One loop for every stage, and the stages: MNTP, then contrastive. A stage is a config, not a script."""
