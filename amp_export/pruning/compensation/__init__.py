"""Update what a plan keeps, so that it makes up for what the plan removes."""
