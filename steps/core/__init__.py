"""Seeds, processes, schedules and finite numbers, which every other package uses."""
