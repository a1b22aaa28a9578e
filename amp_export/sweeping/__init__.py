"""Many plans of one model: its points, the conditions that they meet, and the best of them."""
