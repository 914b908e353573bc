"""Records to tables, figures and pages: the work of ``python -m steps.report``.

``collect`` reads record files into a :class:`~steps.reporting.source.Source`; ``render`` turns a
source into a page and is a pure function of it; ``check`` renders a committed source again, to
compare or to update its page; ``explain`` prints the origin of one cell.
"""
