"""Statistics of a table of scores, on arrays only: no files, no frames.

``spread`` says how seeds vary, ``scores`` puts images and seeds together into intervals,
``differences`` compares rows with one another, ``agreement`` compares two orders.
"""
