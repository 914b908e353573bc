"""The shared parts of every step as a command: errors in one line, options, logging."""

from steps.command.errors import UserError
from steps.command.run import place, run_step, task_parser

__all__ = ["UserError", "place", "run_step", "task_parser"]
