"""Records to tables to figures: what ``python -m steps.report`` is made of.

``collect`` reads record files into a :class:`~steps.reporting.source.Source`; ``render`` turns a
source into a page and is a pure function of it; ``check`` renders a committed source again and
compares; ``explain`` prints what stands behind one cell.
"""
