"""What every step has in common as a command: errors in one line, logging, and nothing else."""

from steps.command.errors import UserError
from steps.command.run import place, run_step

__all__ = ["UserError", "place", "run_step"]
