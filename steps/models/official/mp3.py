"""MP3: no official code is published; these are the names of the recorded formula."""

from steps.models.official.naming import Naming

NAMING = Naming(((r"^(?!position_head\.)", "backbone."),))
