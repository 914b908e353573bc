"""What every step has in common as a command: errors in one line, logging, and nothing else."""

from steps.command.errors import UserError
from steps.command.options import place, task_parser
from steps.command.run import run_step

__all__ = ["UserError", "place", "run_step", "task_parser"]
