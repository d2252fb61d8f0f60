"""The stages of a recipe, what each loads, and what a step of it is."""
