"""Published figures beside measured ones: ``reports/published/``.

``data`` reads the figures and matches records to them, ``carries`` compares orders of methods,
``page`` prints all of it, ``explain`` traces a cell.
"""
