"""The basis of every other package: seeds, processes, schedules, finite numbers."""
