"""openai/DALL-E: parameters are called w and b."""

from steps.models.official.naming import Naming

NAMING = Naming(((r"\.w$", ".weight"), (r"\.b$", ".bias")))
