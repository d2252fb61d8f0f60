"""What training minimises. Torch only: an objective knows neither data files nor the loop."""
