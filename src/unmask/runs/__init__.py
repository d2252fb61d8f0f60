"""A whole run: the recipe, its plan, all stages and the evaluation of every rung of the ladder."""
