"""The stages of a recipe, one file each: what it is set by, what it loads, and what a step of it is."""
